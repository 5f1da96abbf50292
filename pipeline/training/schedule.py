"""The learning rate's course: a linear rise, then half a cosine down to zero (DESIGN section 6, row 15)."""

import math


def warmup_steps(steps: int, warmup_ratio: float) -> int:
    """Steps with a rising rate: the ratio of the run, rounded up, so that any ratio above 0 has at least one."""
    return min(steps, math.ceil(steps * warmup_ratio))


def rate_factor(step: int, steps: int, warmup_ratio: float) -> float:
    """Share of the peak rate at a step (0 <= step < steps), in (0, 1].

    The rise ends at 1 on its last step; the cosine would reach 0 one step after the run's last, so that every step
    moves the weights.
    """
    warmup = warmup_steps(steps, warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
