"""The first pass: limits, exact copies, repeated images."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import DataError
from pipeline.sources.index import build_index, image_key
from pipeline.sources.records import Entry, Record, Rejected, Turn, canonical_id


class Listed:
    """A source with these entries."""

    images = Path("images")
    knows_truth = False

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries

    def entries(self) -> Iterator[Entry]:
        yield from self._entries


def record(name: int, image: str | None = None) -> Record:
    return Record(canonical_id(image, name), str(name), image, (Turn("Q", str(name)),))


def ids(entries: list[Entry], seed: int = 0, limit: int | None = None) -> list[str]:
    source = Listed(entries)
    return [entry.sample_id for entry in build_index(source, seed, limit).walk(source)]


names = st.lists(st.integers(0, 12), max_size=30)


@given(names)
def test_exact_copies_are_numbered_in_file_order(numbers: list[int]) -> None:
    found = ids([record(n) for n in numbers])
    assert len(set(found)) == len(found)
    seen: Counter[int] = Counter()
    for number, sample_id in zip(numbers, found, strict=True):
        base = canonical_id(None, number)
        assert sample_id == (f"{base}#{seen[number]}" if seen[number] else base)
        seen[number] += 1


@settings(max_examples=60)
@given(names, st.integers(0, 3), st.integers(1, 30), st.integers(1, 30), st.randoms())
def test_a_limit_is_a_nested_choice_in_file_order(
    numbers: list[int], seed: int, first: int, second: int, random: object
) -> None:
    entries: list[Entry] = [record(n) for n in numbers]
    small, large = sorted((first, second))
    everything, chosen = ids(entries, seed), ids(entries, seed, large)
    assert len(chosen) == min(large, len(numbers))
    assert chosen == [i for i in everything if i in set(chosen)]
    assert set(ids(entries, seed, small)) <= set(chosen)
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert set(ids(shuffled, seed, large)) == set(chosen)


@given(names, names, st.one_of(st.none(), st.integers(1, 30)))
def test_walking_other_records_than_those_indexed_is_an_error(
    first: list[int], second: list[int], limit: int | None
) -> None:
    index = build_index(Listed([record(n) for n in first]), 0, limit)
    other = Listed([record(n) for n in second])
    if first == second:
        assert len(list(index.walk(other))) == index.taken
    else:
        with pytest.raises(DataError, match="changed while it was read"):
            list(index.walk(other))


def test_another_seed_gives_another_choice() -> None:
    entries: list[Entry] = [record(n) for n in range(200)]
    assert set(ids(entries, 0, 50)) != set(ids(entries, 1, 50))


def test_a_limit_counts_bad_records_too() -> None:
    entries: list[Entry] = [record(n) for n in range(100)]
    entries += [Rejected(canonical_id(None, f"bad{n}"), "malformed_json", "line") for n in range(100)]
    source = Listed(entries)
    index = build_index(source, 0, 100)
    bad = sum(isinstance(entry, Rejected) for entry in index.walk(source))
    assert (index.total, index.taken) == (200, 100)
    assert 30 < bad < 70


def test_repeated_images_are_counted_among_the_chosen() -> None:
    entries: list[Entry] = [record(n, f"{n % 4}.jpg") for n in range(10)] + [record(99, "once.jpg"), record(98)]
    index = build_index(Listed(entries), 0)
    assert index.image_uses == {image_key(f"{n}.jpg"): uses for n, uses in enumerate((3, 3, 2, 2))}
    assert index.images == 5
    assert build_index(Listed([]), 0).total == 0
