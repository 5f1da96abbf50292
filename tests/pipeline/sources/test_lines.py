"""Untrusted JSON Lines."""

import io
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.sources.lines as lines
from pipeline.sources.lines import line_blocks, parse_object, split_lines
from pipeline.sources.records import Rejected


def blocks(content: bytes, start: int = 0, end: int | None = None) -> list[bytes]:
    return list(line_blocks(io.BytesIO(content), start, end))


def test_a_byte_order_mark_and_missing_end_do_not_matter() -> None:
    assert b"".join(blocks(b"\xef\xbb\xbfone\r\n\n two \nthree")) == b"one\r\n\n two \nthree"
    assert split_lines(b"one\r\n\n two \nthree") == [b"one\r", b"", b" two ", b"three"]
    assert split_lines(b"one\n") == [b"one"]


@given(st.lists(st.integers(0, 40), max_size=12), st.booleans(), st.integers(1, 9), st.data())
def test_ranges_give_every_line_exactly_once(sizes: list[int], closed: bool, block: int, data: st.DataObject) -> None:
    content = b"\n".join(bytes([97 + n % 26]) * size for n, size in enumerate(sizes)) + b"\n" * closed
    cuts = sorted({0, len(content), *data.draw(st.lists(st.integers(0, len(content)), max_size=4))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        found = [piece for start, end in itertools.pairwise(cuts) for piece in blocks(content, start, end)]
        assert b"".join(found) == content
        assert all(piece.endswith(b"\n") for piece in found[:-1])


@pytest.mark.parametrize("content", [b"{1}\n{2}\n{3}", b"\n\n{1}\n", b"", b"{1}"])
def test_ranges_may_cut_a_byte_order_mark(content: bytes) -> None:
    marked = b"\xef\xbb\xbf" + content
    for first, second in itertools.combinations_with_replacement(range(len(marked) + 1), 2):
        cuts = itertools.pairwise((0, first, second, len(marked)))
        assert b"".join(block for start, end in cuts if start < end for block in blocks(marked, start, end)) == content


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 9))
def test_a_long_line_is_cut_and_does_not_affect_others(sizes: list[int], block: int) -> None:
    content = b"\n".join(b"x" * size for size in sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "MAX_LINE", 10)
        patch.setattr(lines, "BLOCK", block)
        found = [line for piece in blocks(content) for line in split_lines(piece)]
        # A line that is a little longer than the limit may come whole; it is rejected by its length all the same.
        assert [min(len(line), 11) for line in found] == [min(size, 11) for size in sizes]
        for line, size in zip(found, sizes, strict=True):
            rejected = parse_object(line, 3)
            assert isinstance(rejected, Rejected)
            assert (rejected.reason, rejected.number) == ("line_too_long" if size > 10 else "malformed_json", 3)


BAD = [b"{", b"[1]", b"3", b'{"a": [-Infinity]}', b'{"a": "\xff"}', b"[" * 100_000]


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_a_line_that_is_not_a_json_object_is_rejected(line: bytes) -> None:
    rejected = parse_object(line, 3)
    assert isinstance(rejected, Rejected)
    assert (rejected.reason, rejected.number) == ("malformed_json", 3)
    assert len(rejected.sample_id) == 64


finite = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.dictionaries(st.text(), finite | st.lists(finite)))
def test_an_object_round_trips(value: dict[str, Any]) -> None:
    assert parse_object(json.dumps(value).encode(), 1) == value
