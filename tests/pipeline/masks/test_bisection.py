"""Bisection: it finds all items that kill alone, in few deaths, and an accident convicts nobody."""

import math
from collections.abc import MutableMapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.masks.bisection import ALONE, INTERRUPTED, Journal, bisect

COUNTS = st.integers(1, 33)


@settings(max_examples=40)
@given(count=COUNTS, data=st.data())
def test_exactly_the_guilty_are_found_with_few_deaths(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1)))
    deaths = 0

    def survives(first: int, last: int) -> bool:
        nonlocal deaths
        dies = any(first <= item < last for item in guilty)
        deaths += dies
        return not dies

    assert bisect(count, survives, lambda found: None) == sorted(guilty)
    assert deaths <= len(guilty) * (math.ceil(math.log2(count)) + ALONE if count > 1 else ALONE)


@settings(max_examples=40)
@given(count=COUNTS, data=st.data())
def test_accidents_that_do_not_strike_one_item_twice_convict_nobody(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), max_size=3))
    hit: set[int] = set()

    def survives(first: int, last: int) -> bool:
        accident = data.draw(st.booleans())
        if last - first == 1 and accident:
            accident = first not in hit
            hit.add(first)
        return not accident and not any(first <= item < last for item in guilty)

    assert bisect(count, survives, lambda found: None) == sorted(guilty)


@settings(max_examples=40)
@given(count=COUNTS, data=st.data(), stop=st.integers(0, 20))
def test_a_bisection_that_is_interrupted_goes_on_and_repeats_no_trial(
    count: int, data: st.DataObject, stop: int
) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), max_size=3))
    store: dict[str, str] = {}
    tried: list[str] = []

    def save(trials: MutableMapping[str, str]) -> None:
        store.clear()
        store.update(trials)

    def run(limit: int | None) -> list[int]:
        journal = Journal(dict(store), save)

        def survives(first: int, last: int) -> bool:
            def trial() -> bool:
                if limit is not None and len(tried) >= limit:
                    raise KeyboardInterrupt
                tried.append(f"{first}-{last}")
                return not any(first <= item < last for item in guilty)

            return journal.remembered(f"{first}-{last}", trial)

        return bisect(count, survives, lambda found: None)

    try:
        found = run(stop)
    except KeyboardInterrupt:
        found = run(None)
    assert found == sorted(guilty)
    ranges = [entry for entry in tried if int(entry.split("-")[1]) - int(entry.split("-")[0]) > 1]
    assert len(set(ranges)) == len(ranges)


def killed() -> bool:
    raise KeyboardInterrupt


def test_kills_of_the_whole_program_convict_no_picture() -> None:
    """The program that watches the trials is killed in each trial, as often as is forgiven; then it is left alone."""
    trials: dict[str, str] = {}
    for trial in range(ALONE):
        for _ in range(INTERRUPTED - 1):
            journal = Journal(trials, lambda kept: None)
            for _ in range(trial):
                assert not journal.remembered("5..5", lambda: False)
            with pytest.raises(KeyboardInterrupt):
                journal.remembered("5..5", killed)
        journal = Journal(trials, lambda kept: None)
        for _ in range(trial):
            journal.remembered("5..5", killed)
        assert journal.remembered("5..5", (lambda: False, lambda: True)[trial]) == (trial > 0)


def test_a_trial_that_ends_the_whole_program_each_time_is_a_death() -> None:
    trials: dict[str, str] = {}
    for _ in range(INTERRUPTED):
        with pytest.raises(KeyboardInterrupt):
            Journal(trials, lambda kept: None).remembered("5..5", killed)
    assert not Journal(trials, lambda kept: None).remembered("5..5", killed)
