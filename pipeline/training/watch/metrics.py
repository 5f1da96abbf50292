"""Training metrics: sums over workers and steps, written as rows of a table.

There is one row per `log_every` steps (and one for the last). Losses are means over all samples of those steps, on all
workers. Lists have one element per cross-attention layer. METRICS and SPEED are separate tables: METRICS is the same
each time a stage is made, SPEED is not.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist

from pipeline.training.watch.work import COUNTS

METRICS = pa.schema(
    [
        ("step", pa.int64()),  # optimiser steps done
        ("samples", pa.int64()),  # seen so far, over all workers
        ("learning_rate", pa.float64()),
        ("guidance_weight", pa.float64()),  # lambda of the last step; null in a stage without guidance loss
        ("lm_loss", pa.float64()),  # per target token
        ("guidance_loss", pa.float64()),  # L_g of eq. 3, reduced over layers as the loss is; null without guided rows
        ("guidance_loss_per_layer", pa.list_(pa.float64())),
        ("attention_in_mask", pa.list_(pa.float64())),  # share of attention inside the mask, guided rows only
        ("even_in_mask", pa.float64()),  # the same share if attention were even over the image's cells
        ("attention_on_padding", pa.list_(pa.float64())),  # share on cells without any image pixel
        ("guided_rows", pa.int64()),
        ("images", pa.int64()),
        ("target_tokens", pa.int64()),  # tokens that count in the LM loss
        ("gradient_norm", pa.float64()),  # before clipping, of the last step
        ("held_out_loss", pa.float64()),  # LM loss per target token of the held-out rows; null where it is not due
        ("held_out_guidance_loss", pa.float64()),  # their L_g; null without guided rows
    ]
)
SPEED = pa.schema(
    [
        ("step", pa.int64()),
        ("tokens_per_second", pa.float64()),
        ("images_per_second", pa.float64()),
        ("padding", pa.float64()),  # share of the tokens of all micro-batches that only fill rows up, 0..1
        ("data_wait", pa.float64()),  # share of the time that workers waited for data, 0..1
        ("checkpoint_seconds", pa.float64()),  # that training waited for checkpoints since the last row
        ("seconds", pa.float64()),  # since training began
        ("mfu", pa.float64()),  # share of the GPUs' peak bf16 operations, 0..1; null on a CPU or an unknown GPU
        ("memory_bytes", pa.int64()),  # most memory allocated on one accelerator; null on a CPU
    ]
)

SCALARS = (*COUNTS, "wait_seconds", "checkpoint_seconds")
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
    """Turns windows into rows of both tables. Every worker keeps one, so that they reduce together.

    mfu: MFU of the sums of a window and its seconds (`Utilisation`).
    """

    def __init__(
        self,
        layers: int,
        device: torch.device,
        reduction: str,
        mfu: Callable[[dict[str, float], float], float | None] = lambda counts, seconds: None,
    ) -> None:
        self._layers, self._device, self._reduction, self._mfu = layers, device, reduction, mfu
        self._started = self._window_started = time.monotonic()
        self.window = Window(layers, device)
        self.rows: list[dict[str, Any]] = []

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """Go on from the rows of an earlier run of the stage; its time counts too."""
        now = time.monotonic()
        self.rows, self.window, self._window_started = rows, Window(self._layers, self._device), now
        self._started = now - (rows[-1]["seconds"] if rows else 0.0)

    def row(
        self,
        step: int,
        samples: int,
        learning_rate: float,
        gradient_norm: torch.Tensor | float,
        held_out: tuple[float | None, float | None] = (None, None),
        guidance_weight: float | None = None,
    ) -> dict[str, Any]:
        """Close the window: reduce it over all workers, store its row and return it. Every worker must call this.

        held_out: LM loss and guidance loss of the held-out rows, over all workers.
        guidance_weight: lambda at the last step; None for a stage without guidance loss.
        """
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
            "guidance_weight": guidance_weight,
            "lm_loss": float(sums["lm_loss_sum"]) / max(s["target_tokens"], 1),
            "guidance_loss": None if guidance is None else reduce_layers(guidance, self._reduction),
            "guidance_loss_per_layer": guidance,
            "attention_in_mask": mean("attention_mass_sum"),
            "even_in_mask": s["even_mass"] / guided if guided else None,
            "attention_on_padding": mean("padding_mass_sum"),
            "guided_rows": guided,
            "images": int(s["images"]),
            "target_tokens": int(s["target_tokens"]),
            "padding": s["padding_tokens"] / max(s["padding_tokens"] + s["tokens"], 1),
            "gradient_norm": float(gradient_norm),
            "held_out_loss": held_out[0],
            "held_out_guidance_loss": held_out[1],
            "tokens_per_second": s["tokens"] / elapsed,
            "images_per_second": s["images"] / elapsed,
            "data_wait": min(1.0, s["wait_seconds"] / (elapsed * world_size())),
            "checkpoint_seconds": s["checkpoint_seconds"] / world_size(),
            "seconds": now - self._started,
            "mfu": self._mfu(s, elapsed),
            "memory_bytes": torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None,
        }
        self.rows.append(row)
        self.window, self._window_started = Window(self._layers, self._device), now
        return row

    def pause(self, seconds: float) -> None:
        """Leave this time out of the rates of the current window."""
        self._window_started += seconds

    def table(self, schema: pa.Schema) -> pa.Table:
        """All rows so far, with the columns of METRICS or SPEED."""
        return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in self.rows], schema=schema)


def reduce_layers(values: Sequence[float], reduction: str) -> float:
    """L_g from the losses of the layers: their mean or sum, as in `guidance_reduction`."""
    return sum(values) / (len(values) if reduction == "mean" else 1)
