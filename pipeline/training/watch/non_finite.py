"""A loss or gradient that is not finite (NaN or infinite): it never reaches the weights, and its samples are found.

Looking at a loss makes the host wait for the device, so no step does it. Instead a flag on the device blocks the
optimiser from the first bad step on: weights and moments stay as they were before it. The flag is read when a row of
metrics is due. Then the rows of the first bad step are run one by one with these weights.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from model.errors import StepError

Row = TypeVar("Row")
"""A row of the pack."""
SHOWN = 8
"""Samples that a message names, at most."""


def finite_seed(loss: torch.Tensor) -> torch.Tensor:
    """The gradient that `loss.backward` starts from: 1, or NaN if the loss is not finite.

    A loss can be NaN where its gradient is not, and on one worker of many. NaN in this worker's gradients makes the
    gradient norm NaN on all workers, without a reduction of its own.
    """
    return torch.ones_like(loss) + loss.detach() * 0


def norm_of(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """The norm of all gradients, over all workers if they are sharded."""
    return whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor itself, or all of it if it is sharded (a DTensor). Every worker must call this."""
    full: torch.Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full


class NonFiniteGuard:
    """Blocks the optimiser from the first step on whose gradient norm is not finite."""

    def __init__(self, device: torch.device) -> None:
        self._blocked = torch.zeros((), device=device)
        self._first = torch.full((), -1, dtype=torch.int64, device=device)

    def before_update(self, optimizer: torch.optim.Optimizer, norm: torch.Tensor, step: int) -> None:
        """Block the optimiser's update if it must be, without waiting for the device.

        Args:
            optimizer: a fused one: those skip an update while their `found_inf` is 1, as GradScaler has them do.
            norm: of the whole gradient, the same on all workers.
            step: number of this step, from 0.
        """
        bad = ~torch.isfinite(whole(norm))
        self._first = torch.where(bad & (self._first < 0), step, self._first)
        self._blocked = torch.maximum(self._blocked, bad.to(self._blocked.dtype))
        optimizer.found_inf = self._blocked  # type: ignore[attr-defined]

    def first_bad_step(self) -> int | None:
        """The first step that was blocked, from 0, or None. Waits for the device; all workers get the same."""
        first = int(self._first)
        return None if first < 0 else first


@dataclass(frozen=True)
class RowCheck:
    """One row of a bad step that was run alone."""

    sample_id: str
    loss: float
    guidance_loss: float | None
    gradient_norm: float

    @property
    def bad(self) -> bool:
        """True if a loss or the gradient is not finite."""
        values = [self.loss, self.gradient_norm, 0.0 if self.guidance_loss is None else self.guidance_loss]
        return not bool(torch.isfinite(torch.tensor(values)).all())

    def __str__(self) -> str:
        guidance = "" if self.guidance_loss is None else f", guidance loss {self.guidance_loss:.4g}"
        return f"{self.sample_id} (loss {self.loss:.4g}{guidance}, gradient norm {self.gradient_norm:.4g})"


def weights_that_are_not_finite(model: nn.Module) -> list[str]:
    """Names of the parameters with a value that is not finite, on any worker. Every worker must call this."""
    names, bad = [], []
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        names.append(name)
        bad.append(~torch.isfinite(local.detach()).all())
    found = torch.stack(bad).to(torch.int32)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return [name for name, is_bad in zip(names, found.tolist(), strict=True) if is_bad]


def non_finite_error(
    stage: str,
    step: int,
    total: int,
    model: nn.Module,
    rows: Sequence[Row],
    check: Callable[[Row], RowCheck],
) -> StepError:
    """The error of a stage whose step `step` (from 0) was blocked. Every worker must call this, and gets the same.

    Args:
        total: steps of the stage.
        model: with the weights from before the step.
        rows: of the step's global batch.
        check: runs one of them alone, on all workers together.
    """
    where = f"{stage}: the loss or its gradient was not finite at step {step + 1} of {total}"
    damaged = weights_that_are_not_finite(model)
    if damaged:
        return StepError(
            f"{where}, because the weights were not finite before it: {len(damaged)} parameters, such as {damaged[0]}. "
            "They came like this from the stage before or from the backbones: check these with 'agevlm verify', and "
            "make them again"
        )
    print(f"{where}. Its {len(rows)} rows are now run one by one to find the samples", flush=True)
    # Every worker runs every row, because with sharded weights all must take part in each forward pass. So all get the
    # same numbers, and none has to be sent.
    checks = [check(row) for row in rows]
    bad = [found for found in checks if found.bad]
    kept = "The weights were not changed by it"
    if not bad:
        largest = sorted(checks, key=lambda found: -found.gradient_norm)[:SHOWN]
        return StepError(
            f"{where}, but each of its {len(checks)} rows alone is finite, so the whole batch's numbers overflowed. "
            f"Largest gradients: {'; '.join(map(str, largest))}. {kept}. Lower learning_rate, or use precision fp32"
        )
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return StepError(
        f"{where}. {len(bad)} of its {len(checks)} samples cause it: {'; '.join(map(str, bad[:SHOWN]))}{more}. {kept}. "
        "Look at these samples in the raw data and leave them out if they are damaged; if they are sound, lower "
        "learning_rate or use precision fp32"
    )
