"""Keys of records: equal exactly for records with the same picture and the same turns."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.overlap.digests import content_digests, image_keys, leading
from pipeline.schemas import RECORDS

texts = st.sampled_from(["", "a", "b", "ab", "aa", "\U0001f600", "\u05d0"])
turns = st.lists(st.tuples(texts, texts), max_size=3)
records = st.lists(st.tuples(st.sampled_from([None, "0" * 64, "f" * 64]), turns), min_size=1, max_size=30)


def columns(rows: list[tuple[str | None, list[tuple[str, str]]]]) -> tuple[pa.Array, pa.Array]:
    images = pa.array([image for image, _ in rows], pa.string())
    said: list[list[dict[str, Any]]] = [[{"question": q, "answer": a} for q, a in turns] for _, turns in rows]
    return images, pa.array(said, RECORDS.field("turns").type)


@given(records, st.integers(0, 5))
def test_digests_are_equal_exactly_for_equal_content(
    rows: list[tuple[str | None, list[tuple[str, str]]]], start: int
) -> None:
    images, said = columns(rows)
    found = content_digests(images, said).to_pylist()
    for i, first in enumerate(rows):
        for j, second in enumerate(rows):
            assert (found[i] == found[j]) == (first == second)
    assert content_digests(images[start:], said[start:]).to_pylist() == found[start:]  # a slice has the same digests


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("ab", "")], [("a", "b")]),
        ([("a", "b"), ("c", "d")], [("a", "bcd")]),
        ([("a", "b"), ("", "d")], [("a", ""), ("b", "d")]),
        ([("", "a")], [("a", "")]),
        ([], [("", "")]),
        ([("\x0c\0\0\0", ""), ("wxyz", "")], [("\x04\0\0\0", "wxyz" + 8 * "\0")]),  # equal but for the number of turns
    ],
)
def test_the_same_letters_in_other_turns_are_another_content(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    first, second = content_digests(*columns([(None, one), (None, other)])).to_pylist()
    assert first != second


def test_image_keys_are_the_checksums_and_are_numbered_by_their_first_bits() -> None:
    checksums = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(20)]
    keys = image_keys(pa.array(checksums))
    assert [key.hex() for key in keys.to_pylist()] == checksums
    assert leading(keys).tolist() == [int(checksum[:8], 16) for checksum in checksums]
    assert np.array_equal(leading(keys[3:9]), leading(keys)[3:9])
    assert len(image_keys(pa.array([], pa.string()))) == len(leading(image_keys(pa.array([], pa.string())))) == 0
