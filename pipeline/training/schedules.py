"""Schedules over a stage's steps: the learning rate (docs/paper-notes.md) and the weight of the guidance loss."""

import math
from collections.abc import Sequence

import numpy as np


def warmup_steps(steps: int, warmup_ratio: float) -> int:
    """Number of warmup steps, rounded up, so that any ratio above 0 gives at least one."""
    return min(steps, math.ceil(steps * warmup_ratio))


def rate_factor(step: int, steps: int, warmup_ratio: float) -> float:
    """The factor of the peak rate at a step (0 <= step < steps), in (0, 1].

    The warmup reaches 1 on its last step. The cosine would reach 0 one step after the last one, so that every step
    changes the weights.
    """
    warmup = warmup_steps(steps, warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def guidance_factor(step: int, steps: int, points: Sequence[tuple[float, float]]) -> float:
    """The factor of the guidance weight at a step (0 <= step < steps).

    points: (share of the steps done, factor), by rising share; linear between them, constant before and after them.
    """
    shares, factors = zip(*points, strict=True)
    return float(np.interp(step / steps, shares, factors))
