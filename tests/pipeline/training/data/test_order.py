"""The order of samples: each row once per epoch, the same samples with any number of workers and from any step."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from model.errors import ConfigError
from pipeline.training.data.order import Address, SampleOrder

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 0)


def order_of(sizes: list[int], every: int = 1, **options: Any) -> SampleOrder:
    """An order of `sizes` rows per shard, with random lengths. `every`: distance of two rows that take part."""
    rng = np.random.default_rng(7)
    rows = [np.arange(n) * every for n in sizes]
    lengths = [rng.integers(1, 9, n).astype(np.int32) for n in sizes]
    return SampleOrder(rows, **{"seed": 0, "epochs": 1, "global_batch": 1, "lengths": lengths, **options})


def stream_of(sizes: list[int], **options: Any) -> list[Address]:
    """The rows one by one, without length buckets."""
    order = order_of(sizes, **{**options, "global_batch": 1, "window": 1, "max_steps": None})
    return [address for step in range(order.steps) for address in order.batch(step)]


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """The arguments of an order with at least one step."""
    options = {
        "sizes": draw(SIZES),
        "every": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 3)),
        "epochs": draw(st.integers(1, 3)),
        "global_batch": draw(st.integers(1, 7)),
        "window": draw(st.integers(1, 4)),
        "tail": draw(st.sampled_from(["drop", "keep"])),
        "max_steps": draw(st.none() | st.integers(1, 9)),
    }
    assume(options["tail"] == "keep" or options["epochs"] * sum(options["sizes"]) >= options["global_batch"])
    return options


def batches_of(run: dict[str, Any]) -> list[list[Address]]:
    order = order_of(**run)
    return [order.batch(step) for step in range(order.steps)]


@given(SIZES, st.integers(0, 3), st.integers(1, 3))
def test_each_epoch_of_the_stream_has_each_row_once_and_one_shard_after_another(
    sizes: list[int], seed: int, epochs: int
) -> None:
    stream, rows = stream_of(sizes, seed=seed, epochs=epochs), sum(sizes)
    everything = sorted(Address(s, r) for s, n in enumerate(sizes) for r in range(n))
    for epoch in range(epochs):
        seen = stream[epoch * rows : (epoch + 1) * rows]
        assert sorted(seen) == everything
        assert sum(a.shard != b.shard for a, b in pairwise(seen)) == sum(n > 0 for n in sizes) - 1


@given(runs())
def test_rows_change_places_only_within_a_window_and_an_epoch(run: dict[str, Any]) -> None:
    """So each row is seen once per epoch, and never twice in a batch that lies in one epoch."""
    batches, size, rows = batches_of(run), run["global_batch"], sum(run["sizes"])
    stream = stream_of(**run)
    plain = [stream[i * size : (i + 1) * size] for i in range(len(batches))]
    groups: dict[Any, list[int]] = {}
    for step, batch in enumerate(plain):
        first, last = step * size // rows, (step * size + len(batch) - 1) // rows
        whole = first == last and len(batch) == size
        groups.setdefault((step // run["window"], first) if whole else ("as it is", step), []).append(step)
    for steps in groups.values():
        found, expected = ([a for s in steps for a in source[s]] for source in (batches, plain))
        assert Counter(found) == Counter(expected)
    assert all(batch == sorted(batch) for batch in batches)


@given(runs())
def test_counts_are_those_of_the_rows_that_are_seen(run: dict[str, Any]) -> None:
    order, batches = order_of(**run), batches_of(run)
    seen = Counter(address for batch in batches for address in batch)
    available, size = run["epochs"] * order.rows, run["global_batch"]
    assert (order.samples, order.distinct) == (seen.total(), len(seen))
    assert [order.size(step) for step in range(order.steps)] == [len(batch) for batch in batches]
    assert [order.seen(step) for step in range(order.steps + 1)] == np.cumsum([0, *map(len, batches)]).tolist()
    assert all(len(batch) == size for batch in batches[:-1])
    if run["max_steps"] is not None:
        assert order.steps <= run["max_steps"]
    if run["tail"] == "drop":
        assert len(batches[-1]) == size
    if run["max_steps"] is None or run["max_steps"] * size >= available:
        kept = run["tail"] == "keep"
        assert available - order.samples == (0 if kept else available % size)
        assert set(seen.values()) <= ({run["epochs"]} if kept else set(range(run["epochs"] + 1)))
    assert all(address.row % run["every"] == 0 for address in seen)  # only rows that take part


@given(runs(), st.randoms(use_true_random=False))
def test_a_step_does_not_depend_on_the_steps_before_it(run: dict[str, Any], random: Any) -> None:
    batches = batches_of(run)
    step = random.randrange(len(batches))
    assert order_of(**run).batch(step) == batches[step]
    order = order_of(**run)
    for step in random.sample(range(len(batches)), len(batches)):
        assert order.batch(step) == batches[step]


@given(runs())
def test_any_number_of_workers_shares_the_same_global_batches(run: dict[str, Any]) -> None:
    for world in (1, 2, 3, 4):
        order = order_of(**run)
        for step, batch in enumerate(batches_of(run)):
            parts = [order.slice(step, rank, world) for rank in range(world)]
            assert [address for part in parts for address in part] == batch
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(runs())
def test_batches_of_a_window_are_cut_from_its_rows_sorted_by_length(run: dict[str, Any]) -> None:
    order, size = order_of(**run), run["global_batch"]
    groups: dict[Any, list[list[int]]] = {}
    for step in range(order.steps):
        first, last = step * size // order.rows, ((step + 1) * size - 1) // order.rows
        if first == last and order.size(step) == size and run["window"] > 1:
            lengths = order.lengths_of(order.batch(step)).tolist()
            groups.setdefault((step // run["window"], first), []).append(lengths)
    for batches in groups.values():
        by_length = sorted(batches, key=lambda batch: (min(batch), max(batch)))
        assert all(max(one) <= min(other) for one, other in pairwise(by_length))


def test_epochs_shards_rows_and_windows_have_permutations_of_their_own() -> None:
    """The first epoch has the pack's order. A part that is left out of a seed makes two of these permutations equal."""
    shards, rows, epochs = 12, 30, 4
    stream = stream_of([rows] * shards, epochs=epochs)
    size = shards * rows

    def permutations(stream: list[Address]) -> tuple[list[Any], list[Any]]:
        turns, within = [], []
        for epoch in range(epochs):
            part = stream[epoch * size : (epoch + 1) * size]
            turns.append(tuple(address.shard for address in part[::rows]))
            within += [tuple(a.row for a in part if a.shard == shard) for shard in range(shards)]
        return turns, within

    turns, within = permutations(stream)
    assert turns[0] == tuple(range(shards))
    assert set(within[:shards]) == {tuple(range(rows))}
    assert len(set(turns)) == epochs
    assert len(set(within[shards:])) == (epochs - 1) * shards
    other_turns, other_within = permutations(stream_of([rows] * shards, epochs=epochs, seed=1))
    assert other_turns[0] == turns[0]
    assert not set(other_turns[1:]) & set(turns)
    assert not set(other_within[shards:]) & set(within)

    def batch_turns(seed: int) -> list[tuple[int, ...]]:
        window, lengths = 8, [np.arange(960, dtype=np.int32)]
        order = SampleOrder([np.arange(960)], seed, 1, 4, lengths=lengths, window=window)
        firsts = [order.batch(step)[0].row // 4 for step in range(order.steps)]
        return [tuple(turn - start for turn in firsts[start : start + window]) for start in range(0, 240, window)]

    assert len(set(batch_turns(0))) > 25  # of 30 windows
    assert not set(batch_turns(0)) & set(batch_turns(1))


def test_a_batch_of_two_epochs_is_not_sorted_and_no_batch_of_one_has_a_row_twice() -> None:
    """A window may be longer than an epoch: sorted as a whole, it would put the copies of a row side by side."""
    order = order_of([10], epochs=12, global_batch=3, window=40)
    assert order.steps == 40
    for step in range(order.steps):
        batch = order.batch(step)
        if step * 3 // 10 == (step * 3 + 2) // 10:
            assert len(set(batch)) == 3


def test_an_incomplete_batch_is_filled_from_the_next_epoch_and_only_the_last_rows_are_left_out() -> None:
    order = order_of([5], epochs=2, global_batch=4)
    assert order.steps == 2  # of 10 rows
    assert Address(0, 4) in order.batch(1)
    assert (order.samples, order.distinct) == (8, 5)
    assert order_of([5], epochs=1, global_batch=4).distinct == 4
    assert order_of([5], epochs=9, global_batch=4, max_steps=1).steps == 1
    kept = order_of([5], epochs=1, global_batch=4, tail="keep")
    assert [len(kept.batch(step)) for step in range(kept.steps)] == [4, 1]
    assert order_of([3], global_batch=8, tail="keep").batch(0) == [Address(0, row) for row in range(3)]


def test_too_few_rows_are_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match="3 usable rows in 2 epochs do not fill one step of global_batch = 8"):
        order_of([3], epochs=2, global_batch=8)
    with pytest.raises(IndexError):
        order_of([8], global_batch=8).batch(1)
    with pytest.raises(ValueError, match="no lengths"):
        order_of([8], lengths=None).lengths_of([Address(0, 0)])
