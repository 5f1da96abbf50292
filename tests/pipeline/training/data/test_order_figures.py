"""Figures of an order: padding before and after length buckets, and the spread of guided rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.data.order import SampleOrder
from pipeline.training.data.order_figures import STEPS, STRETCHES, order_figures, sampled_steps, spread


def order_of(rows: int = 6000, shards: int = 6, window: int = 8, batch: int = 32) -> SampleOrder:
    rng = np.random.default_rng(0)
    size = rows // shards
    lengths = [rng.geometric(0.01, size).clip(20, 2000).astype(np.int32) for _ in range(shards)]
    return SampleOrder([np.arange(size) for _ in range(shards)], 0, 2, batch, lengths=lengths, window=window)


def test_length_buckets_save_most_of_the_padding() -> None:
    padding = order_figures(order_of(), micro_batch=8, workers=2)["padding"]
    assert padding["unsorted"] > 0.5
    assert padding["sorted"] < 0.2
    same = order_figures(order_of(window=1), micro_batch=32, workers=1)["padding"]
    assert same["sorted"] == same["unsorted"]  # one micro-batch of a random global batch


def test_padding_is_that_of_the_longest_row_of_each_micro_batch() -> None:
    order = SampleOrder([np.arange(4)], 0, 1, 4, lengths=[np.array([1, 9, 2, 8], dtype=np.int32)])
    padding = order_figures(order, micro_batch=2, workers=1)["padding"]
    assert padding == {"unsorted": 1 - 20 / 34, "sorted": 1 - 20 / 22}


def test_guided_rows_are_spread_as_chance_spreads_them() -> None:
    """Also with length buckets; and rows whose guidance goes with their length show as a larger deviation."""
    order = order_of()
    by_chance = np.random.default_rng(1).random((6, 1000)) < 0.1
    found = order_figures(order, 8, 1, lambda shard: by_chance[shard])["guided"]
    assert found["mean"] == pytest.approx(3.2, rel=0.1)
    assert found["deviation"] == pytest.approx(found["binomial_deviation"], rel=0.2)
    assert found["longest_gap"] <= 2
    by_length = [lengths < 30 for lengths in order._lengths or ()]
    clumped = order_figures(order, 8, 1, lambda shard: by_length[shard])["guided"]
    assert clumped["deviation"] > 2 * clumped["binomial_deviation"]
    assert clumped["longest_gap"] > 2
    assert order_figures(order, 8, 1)["guided"] is None


def test_the_gap_is_counted_at_the_ends_too() -> None:
    def gap(*rows: int) -> int:
        return int(spread([np.array(rows)], 4)["longest_gap"])

    assert [gap(0, 0, 1), gap(1, 0, 0, 0), gap(1, 0, 1, 1), gap(2, 1), gap(0, 0)] == [2, 3, 1, 0, 2]


@given(st.integers(1, 5000), st.integers(1, 20))
def test_sampled_steps_are_whole_windows_of_the_run(steps: int, window: int) -> None:
    stretches = sampled_steps(steps, window)
    flat = [step for stretch in stretches for step in stretch]
    assert len(set(flat)) == len(flat) <= STRETCHES * (STEPS + window)
    assert set(flat) <= set(range(steps))
    assert all(stretch.start % window == 0 for stretch in stretches)
    if steps > STRETCHES * (STEPS + window):
        assert stretches[0].start == 0
        assert stretches[-1].stop > steps - 2 * window
