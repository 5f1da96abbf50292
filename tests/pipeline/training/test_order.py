"""The order of samples: each row once per epoch, the same samples with any number of workers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ConfigError
from pipeline.training.order import Address, SampleOrder

SHARDS = st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 0)


def order_of(sizes: list[int], **options: int) -> SampleOrder:
    return SampleOrder([np.arange(n) for n in sizes], **{"seed": 0, "epochs": 1, "global_batch": 1, **options})


@settings(deadline=None)
@given(SHARDS, st.integers(0, 3), st.integers(1, 3))
def test_each_row_is_seen_once_per_epoch(sizes: list[int], seed: int, epochs: int) -> None:
    order = order_of(sizes, seed=seed, epochs=epochs)
    everything = {(s, r) for s, n in enumerate(sizes) for r in range(n)}
    for epoch in range(epochs):
        seen = [order.at(epoch * order.rows + i) for i in range(order.rows)]
        assert {(a.shard, a.row) for a in seen} == everything
        assert len(seen) == len(everything)


@settings(deadline=None)
@given(SHARDS, st.integers(1, 7), st.integers(1, 5), st.integers(1, 3))
def test_workers_share_each_global_batch(sizes: list[int], batch: int, world: int, epochs: int) -> None:
    if epochs * sum(sizes) < batch:
        return
    order = order_of(sizes, epochs=epochs, global_batch=batch)
    for step in range(order.steps):
        parts = [order.slice(step, rank, world) for rank in range(world)]
        assert [a for part in parts for a in part] == order.batch(step)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_first_epoch_is_the_packs_order_and_later_ones_are_permuted_by_the_seed() -> None:
    order = order_of([6, 6], epochs=3, global_batch=12)
    assert order.batch(0) == [Address(s, r) for s in (0, 1) for r in range(6)]
    assert order.batch(1) != order.batch(0)
    assert order.batch(2) != order.batch(1)
    assert order_of([6, 6], epochs=3, global_batch=12).batch(1) == order.batch(1)
    assert order_of([6, 6], epochs=3, global_batch=12, seed=1).batch(1) != order.batch(1)


def test_an_incomplete_batch_is_filled_from_the_next_epoch_and_only_the_last_rows_are_left_out() -> None:
    order = order_of([5], epochs=2, global_batch=4)
    assert order.steps == 2  # of 10 rows
    second = order.batch(1)
    assert second[0] == Address(0, 4)
    assert order.samples == 8
    assert order.distinct == 5
    assert order_of([5], epochs=1, global_batch=4).distinct == 4
    assert order_of([5], epochs=9, global_batch=4, max_steps=1).steps == 1


def test_rows_that_do_not_take_part_are_never_seen() -> None:
    order = SampleOrder([np.array([1, 3]), np.array([], dtype=int), np.array([0])], 0, 2, 3)
    for step in range(order.steps):
        assert {(a.shard, a.row) for a in order.batch(step)} == {(0, 1), (0, 3), (2, 0)}


def test_too_few_rows_are_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match="3 usable rows in 2 epochs do not fill one step of global_batch = 8"):
        order_of([3], epochs=2, global_batch=8)
    with pytest.raises(IndexError):
        order_of([8], global_batch=8).batch(1)
