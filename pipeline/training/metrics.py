"""Training metrics: sums over workers and steps, written as rows of a table.

There is one row per `log_every` steps (and one for the last). Losses are means over all samples of those steps, on all
workers. Lists have one element per cross-attention layer. METRICS and SPEED are separate tables: METRICS is the same
each time a stage is made, SPEED is not.
"""

import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist

METRICS = pa.schema(
    [
        ("step", pa.int64()),  # optimiser steps done
        ("samples", pa.int64()),  # seen so far, over all workers
        ("learning_rate", pa.float64()),
        ("lm_loss", pa.float64()),  # per target token
        ("guidance_loss", pa.float64()),  # L_g of eq. 3, reduced over layers as the loss is; null without guided rows
        ("guidance_loss_per_layer", pa.list_(pa.float64())),
        ("attention_in_mask", pa.list_(pa.float64())),  # share of attention inside the mask, guided rows only
        ("attention_on_padding", pa.list_(pa.float64())),  # share on cells without any image pixel
        ("guided_rows", pa.int64()),
        ("gradient_norm", pa.float64()),  # before clipping, of the last step
    ]
)
SPEED = pa.schema(
    [
        ("step", pa.int64()),
        ("tokens_per_second", pa.float64()),
        ("images_per_second", pa.float64()),
        ("data_wait", pa.float64()),  # share of the time that workers waited for data, 0..1
        ("seconds", pa.float64()),  # since training began
        ("memory_bytes", pa.int64()),  # most memory allocated on one accelerator; null on a CPU
    ]
)

SCALARS = ("target_tokens", "guided_rows", "tokens", "images", "wait_seconds")
"""Known to the host: counts of the batches, and times."""
TENSORS = ("lm_loss_sum", "counted_rows", "guidance_loss_sum", "attention_mass_sum", "padding_mass_sum")
"""Outputs of the model: a number, or one number per cross-attention layer. They stay on its device until a row is
written, because reading one makes the host wait for the device. `counted_rows` are guided rows as the model counts
them."""


def all_reduce(value: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all workers, in place; with one worker it is returned unchanged."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value


def world_size() -> int:
    """Number of workers that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def exact_dtype(device: torch.device) -> torch.dtype:
    """Number format of sums: fp64, because fp32 loses counts above 2**24; fp32 on devices without fp64."""
    return torch.float32 if device.type == "mps" else torch.float64


class Window:
    """This worker's sums since the last row of metrics."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self._device = device
        self.scalars: dict[str, float] = dict.fromkeys(SCALARS, 0.0)
        sizes = {"lm_loss_sum": 1, "counted_rows": 1}
        dtype = exact_dtype(device)
        self.tensors = {name: torch.zeros(sizes.get(name, layers), dtype=dtype, device=device) for name in TENSORS}

    def add(self, **values: float) -> None:
        """Add to the sums that the host knows."""
        for name, value in values.items():
            self.scalars[name] += value

    def add_tensors(self, **values: torch.Tensor | None) -> None:
        """Add outputs of the model, without waiting for its device; None adds nothing."""
        for name, value in values.items():
            if value is not None:
                self.tensors[name] += value.detach()

    def reduced(self) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """Both kinds of sums over all workers, on the CPU. Every worker must call this."""
        scalars = torch.tensor([self.scalars[n] for n in SCALARS], dtype=exact_dtype(self._device))
        numbers = torch.cat([scalars.to(self._device), *self.tensors.values()])
        numbers = all_reduce(numbers).cpu().double()
        sizes = [len(SCALARS), *(len(t) for t in self.tensors.values())]
        first, *rest = torch.split(numbers, sizes)
        return dict(zip(SCALARS, first.tolist(), strict=True)), dict(zip(TENSORS, rest, strict=True))


class Log:
    """Turns windows into rows of both tables. Every worker keeps one, so that they reduce together."""

    def __init__(self, layers: int, device: torch.device, reduction: str) -> None:
        self._layers, self._device, self._reduction = layers, device, reduction
        self._started = self._window_started = time.monotonic()
        self.window = Window(layers, device)
        self.rows: list[dict[str, Any]] = []

    def row(self, step: int, samples: int, learning_rate: float, gradient_norm: torch.Tensor | float) -> dict[str, Any]:
        """Close the window: reduce it over all workers, store its row and return it. Every worker must call this."""
        # Sums are over all workers but time is not, so rates are those of all workers together, and the wait is divided
        # by their number.
        s, sums = self.window.reduced()  # waits for the device, so the time is taken after it
        now = time.monotonic()
        elapsed = max(now - self._window_started, 1e-9)
        guided = int(s["guided_rows"])
        # The losses are scaled by counts from before the forward pass; the model must count the same rows.
        assert int(sums["counted_rows"]) == guided, (int(sums["counted_rows"]), guided)

        def mean(name: str) -> list[float] | None:
            values: list[float] = (sums[name] / guided).tolist() if guided else []
            return values or None

        guidance = mean("guidance_loss_sum")
        row = {
            "step": step,
            "samples": samples,
            "learning_rate": learning_rate,
            "lm_loss": float(sums["lm_loss_sum"]) / max(s["target_tokens"], 1),
            "guidance_loss": None if guidance is None else reduce_layers(guidance, self._reduction),
            "guidance_loss_per_layer": guidance,
            "attention_in_mask": mean("attention_mass_sum"),
            "attention_on_padding": mean("padding_mass_sum"),
            "guided_rows": guided,
            "gradient_norm": float(gradient_norm),
            "tokens_per_second": s["tokens"] / elapsed,
            "images_per_second": s["images"] / elapsed,
            "data_wait": min(1.0, s["wait_seconds"] / (elapsed * world_size())),
            "seconds": now - self._started,
            "memory_bytes": torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None,
        }
        self.rows.append(row)
        self.window, self._window_started = Window(self._layers, self._device), now
        return row

    def table(self, schema: pa.Schema) -> pa.Table:
        """All rows so far, with the columns of METRICS or SPEED."""
        return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in self.rows], schema=schema)


def reduce_layers(values: Sequence[float], reduction: str) -> float:
    """L_g from the losses of the layers: their mean or sum, as in `guidance_reduction`."""
    return sum(values) / (len(values) if reduction == "mean" else 1)
