"""Training metrics: sums over workers and steps, written as rows of a table.

There is one row per `log_every` steps (and one for the last). Losses are means over all samples of those steps, on all
workers. Lists have one element per cross-attention layer. METRICS and SPEED are separate tables: METRICS is the same
each time a stage is made, SPEED is not.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
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

SCALARS = ("lm_loss_sum", "target_tokens", "guided_rows", "tokens", "images", "wait_seconds")
LAYERS = ("guidance_loss_sum", "attention_mass_sum", "padding_mass_sum")


def all_reduce(value: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all workers, in place; with one worker it is returned unchanged."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value


def world_size() -> int:
    """Number of workers that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@dataclass
class Window:
    """This worker's sums since the last row of metrics."""

    layers: int
    scalars: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SCALARS, 0.0))
    per_layer: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.per_layer = {name: torch.zeros(self.layers, dtype=torch.float64) for name in LAYERS}

    def add(self, **values: float) -> None:
        """Add to the scalar sums."""
        for name, value in values.items():
            self.scalars[name] += value

    def add_layers(self, **values: torch.Tensor | None) -> None:
        """Add to the sums per cross-attention layer; None adds nothing."""
        for name, value in values.items():
            if value is not None:
                self.per_layer[name] += value.detach().double().cpu()

    def reduced(self, device: torch.device) -> "Window":
        """The sums over all workers. Every worker must call this."""
        # In fp64: fp32 would lose counts above 2**24.
        numbers = torch.cat(
            [torch.tensor([self.scalars[n] for n in SCALARS], dtype=torch.float64), *self.per_layer.values()]
        )
        numbers = all_reduce(numbers.to(device)).cpu()
        total = Window(self.layers)
        total.scalars = dict(zip(SCALARS, numbers[: len(SCALARS)].tolist(), strict=True))
        for name, part in zip(LAYERS, torch.split(numbers[len(SCALARS) :], self.layers), strict=True):
            total.per_layer[name] = part
        return total


class Log:
    """Turns windows into rows of both tables. Every worker keeps one, so that they reduce together."""

    def __init__(self, layers: int, device: torch.device, reduction: str) -> None:
        self._layers, self._device, self._reduction = layers, device, reduction
        self._started = self._window_started = time.monotonic()
        self.window = Window(layers)
        self.rows: list[dict[str, Any]] = []

    def row(self, step: int, samples: int, learning_rate: float, gradient_norm: float) -> dict[str, Any]:
        """Close the window: reduce it over all workers, store its row and return it. Every worker must call this."""
        # Sums are over all workers but time is not, so rates are those of all workers together, and the wait is divided
        # by their number.
        now = time.monotonic()
        total = self.window.reduced(self._device)
        elapsed = max(now - self._window_started, 1e-9)
        guided, s = int(total.scalars["guided_rows"]), total.scalars

        def mean(name: str) -> list[float] | None:
            values: list[float] = (total.per_layer[name] / guided).tolist() if guided else []
            return values or None

        guidance = mean("guidance_loss_sum")
        row = {
            "step": step,
            "samples": samples,
            "learning_rate": learning_rate,
            "lm_loss": s["lm_loss_sum"] / max(s["target_tokens"], 1),
            "guidance_loss": None if guidance is None else reduce_layers(guidance, self._reduction),
            "guidance_loss_per_layer": guidance,
            "attention_in_mask": mean("attention_mass_sum"),
            "attention_on_padding": mean("padding_mass_sum"),
            "guided_rows": guided,
            "gradient_norm": gradient_norm,
            "tokens_per_second": s["tokens"] / elapsed,
            "images_per_second": s["images"] / elapsed,
            "data_wait": min(1.0, s["wait_seconds"] / (elapsed * world_size())),
            "seconds": now - self._started,
            "memory_bytes": torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None,
        }
        self.rows.append(row)
        self.window, self._window_started = Window(self._layers), now
        return row

    def table(self, schema: pa.Schema) -> pa.Table:
        """All rows so far, with the columns of METRICS or SPEED."""
        return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in self.rows], schema=schema)


def reduce_layers(values: Sequence[float], reduction: str) -> float:
    """L_g from the losses of the layers: their mean or sum, as in `guidance_reduction`."""
    return sum(values) / (len(values) if reduction == "mean" else 1)
