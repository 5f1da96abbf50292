"""Sorting by keys with bucket files: the order is that of a plain sort, whatever has to be written to disk."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pipeline.compute.sorting as sorting
from pipeline.compute.sorting import Sorter, halves, in_pieces, key_column, order_keys
from pipeline.sources.records import order_key

SCHEMA = pa.schema([("name", pa.string()), ("words", pa.list_(pa.string()))])


def table(names: list[str]) -> pa.Table:
    return pa.Table.from_pylist([{"name": name, "words": name.split()} for name in names], schema=SCHEMA)


def sort(folder: Path, names: list[str], keys: list[bytes], batch: int) -> Iterator[pa.Table]:
    sorter = Sorter(SCHEMA, folder)
    for start in range(0, len(names), batch):
        part = slice(start, start + batch)
        sorter.add(table(names[part]), pa.array(keys[part], pa.binary()))
    assert sorter.rows == len(names)
    return sorter.read()


def names_of(tables: Iterator[pa.Table]) -> list[str]:
    return [name for part in tables for name in part.column("name").to_pylist()]


# Keys with long common beginnings, keys that are the beginning of another, and the empty key.
keys = st.lists(st.binary(max_size=3).map(lambda tail: b"same" * (len(tail) % 3) + tail), unique=True, max_size=40)


@settings(max_examples=30, deadline=None)
@example([b"a\0", b"a", b"a\0\0", b""], 1, 1)
@given(keys, st.integers(1, 20), st.sampled_from([1, 300, 2000, 1 << 20]))
def test_any_keys_come_out_in_the_order_of_a_plain_sort(
    tmp_path_factory: pytest.TempPathFactory, given_keys: list[bytes], batch: int, size: int
) -> None:
    folder = tmp_path_factory.mktemp("sort")
    names = [f"row of {key.hex()}" for key in given_keys]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "BUCKET_BYTES", size)
        patch.setattr(sorting, "READ_BYTES", 200)
        found = list(sort(folder, names, given_keys, batch))
    assert all(part.schema.equals(SCHEMA) for part in found)
    assert names_of(iter(found)) == [f"row of {key.hex()}" for key in sorted(given_keys)]
    assert not list(folder.iterdir()), "bucket files are removed"


def test_rows_of_one_key_keep_the_order_in_which_they_were_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorting, "BUCKET_BYTES", 1)
    names = [f"row {n}" for n in range(50)]
    assert names_of(sort(tmp_path, names, [b"one"] * 50, 7)) == names


def test_a_bucket_is_bounded_and_few_files_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "BUCKET_BYTES", 2_000)
    names = [f"row {n}" for n in range(4_000)]
    found = list(sort(tmp_path, names, [order_key("t", 0, name) for name in names], 999))
    assert names_of(iter(found)) == sorted(names, key=lambda name: order_key("t", 0, name))
    assert max(part.nbytes for part in found) <= 2_000
    assert len(found) > 256, "some were dealt twice"


def test_few_rows_touch_no_disk(tmp_path: Path) -> None:
    assert names_of(sort(tmp_path / "none", ["b", "a"], [b"2", b"1"], 1)) == ["a", "b"]
    assert names_of(sort(tmp_path / "none", [], [], 1)) == []
    assert not (tmp_path / "none").exists()


@given(st.sampled_from(["pack", "subset"]), st.integers(0, 2**40), st.lists(st.text(max_size=9), max_size=9))
def test_keys_of_many_names_are_those_of_each(purpose: str, seed: int, names: list[str]) -> None:
    made = order_keys(purpose, seed, pa.array(names, pa.string()))
    expected = [order_key(purpose, seed, name) for name in names]
    assert [key.tobytes() for key in made] == expected
    assert key_column(made).to_pylist() == expected
    assert sorted(map(tuple, halves(made).tolist())) == [tuple(map(int, pair)) for pair in _pairs(sorted(expected))]
    assert key_column(made[::2]).to_pylist() == expected[::2]


def _pairs(expected: list[bytes]) -> list[tuple[int, int]]:
    return [(int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")) for key in expected]


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 7))
def test_pieces_have_their_size_and_the_same_rows(sizes: list[int], rows: int) -> None:
    parts, names = [], [f"row {n}" for n in range(sum(sizes))]
    for size in sizes:
        parts.append(table(names[sum(map(len, parts)) :][:size]))
    pieces = list(in_pieces(iter(parts), rows))
    assert names_of(iter(pieces)) == names
    assert [len(piece) for piece in pieces] == [min(rows, len(names) - n) for n in range(0, len(names), rows)]
    assert sum(piece.get_total_buffer_size() for piece in pieces) <= 100 + 200 * len(names), "a slice keeps the whole"
