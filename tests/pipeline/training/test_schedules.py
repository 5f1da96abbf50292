"""The learning rate schedule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.schedules import rate_factor, warmup_steps


@given(st.integers(1, 500), st.floats(0, 1))
def test_every_step_has_a_rate_and_none_exceeds_the_peak(steps: int, ratio: float) -> None:
    factors = [rate_factor(s, steps, ratio) for s in range(steps)]
    warmup = warmup_steps(steps, ratio)
    assert all(0 < f <= 1 for f in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


def test_the_paper_schedule() -> None:
    assert warmup_steps(1000, 0.03) == 30
    assert rate_factor(0, 1000, 0.03) == pytest.approx(1 / 30)
    assert rate_factor(29, 1000, 0.03) == 1
    assert rate_factor(30, 1000, 0.03) == 1
    assert rate_factor(515, 1000, 0.03) == pytest.approx(0.5)
    assert rate_factor(0, 10, 0.0) == 1
