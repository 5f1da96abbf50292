"""The choice of a subset: that of a plain sort by sort keys."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.steps.selection as selection
from pipeline.sources.records import order_key
from pipeline.steps.selection import Selection, TopN

ids = st.lists(st.text(alphabet="0123456789abcdef", min_size=4, max_size=8), unique=True, max_size=60)


def chosen(names: list[str], size: int | None, seed: int, batch: int = 7) -> set[str]:
    choice = Selection(seed, size)
    for start in range(0, len(names), batch):
        part = names[start : start + batch]
        choice.add(pa.array(part, pa.string()), None, np.arange(start, start + len(part)))
    assert choice.available == len(names)
    places = choice.chosen()
    assert places is None or places.tolist() == sorted(places.tolist())
    return set(names) if places is None else {names[place] for place in places}


@settings(max_examples=80)
@given(ids, st.integers(0, 3), st.integers(1, 60), st.integers(1, 60), st.randoms(), st.integers(1, 50))
def test_choices_are_nested_stable_and_of_the_right_size(
    names: list[str], seed: int, first: int, second: int, shuffler: random.Random, slack: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SLACK", slack)
        small, large = sorted((first, second))
        few, more = chosen(names, small, seed), chosen(names, large, seed)
        ranked = sorted(names, key=lambda name: order_key("subset", seed, name))
        assert few == set(ranked[:small])
        assert more == set(ranked[:large])
        assert chosen(names, None, seed) == set(names)
        shuffled = list(names)
        shuffler.shuffle(shuffled)
        assert chosen(shuffled, small, seed, batch=3) == few


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1)), unique=True, max_size=50), st.integers(0, 9))
def test_keys_with_equal_first_halves_are_ordered_by_the_second(keys: list[tuple[int, int]], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "SLACK", 1)
        top = TopN(size)
        for place, key in enumerate(keys):
            top.add(np.array([key], np.uint64), np.array([place]))
        assert sorted(keys[place] for place in top.chosen()) == sorted(keys)[:size]
        assert top.seen == len(keys)


def test_memory_holds_at_most_twice_the_choice() -> None:
    top, rng = TopN(10_000), np.random.default_rng(0)
    for start in range(0, 1_000_000, 4000):
        top.add(rng.integers(0, 2**64, (4000, 2), np.uint64), np.arange(start, start + 4000))
        assert len(top._places) + top._waiting <= 20_000


def test_orders_of_different_purposes_are_unrelated() -> None:
    names = [f"sample {n}" for n in range(2000)]
    pack = np.argsort([order_key("pack", 0, name).hex() for name in names]).argsort()
    subset = np.argsort([order_key("subset", 0, name).hex() for name in names]).argsort()
    assert abs(np.corrcoef(pack, subset)[0, 1]) < 0.1
    taken = np.sort(pack[subset < 60])  # 3 % of the rows, as in the paper's stage 3
    assert np.diff(taken).max() < 400
