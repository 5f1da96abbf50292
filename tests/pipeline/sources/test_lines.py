"""Untrusted JSON Lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.sources.lines as lines
from pipeline.sources.lines import parse_object, read_lines
from pipeline.sources.records import Rejected


def test_lines_are_numbered_and_stripped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  \n two \nthree")
    assert list(read_lines(path)) == [(1, b"one"), (4, b"two"), (5, b"three")]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_a_long_line_is_cut_and_does_not_affect_others(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(b"\n".join(b"x" * size for size in sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "MAX_LINE", 10)
        found = list(read_lines(path))
        assert found == [(n, b"x" * min(size, 11)) for n, size in enumerate(sizes, start=1)]
        for (_, line), size in zip(found, sizes, strict=True):
            rejected = parse_object(line, "here")
            assert isinstance(rejected, Rejected)
            assert rejected.reason == ("line_too_long" if size > 10 else "malformed_json")


BAD = [b"{", b"[1]", b"3", b'{"a": NaN}', b'{"a": [-Infinity]}', b'{"a": 1e999}', b'{"a": "\xff"}', b"[" * 100_000]


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_a_line_that_is_not_a_json_object_is_rejected(line: bytes) -> None:
    rejected = parse_object(line, "line 3")
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "malformed_json"
    assert rejected.detail.startswith("line 3: ")
    assert len(rejected.sample_id) == 64


finite = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.dictionaries(st.text(), finite | st.lists(finite)))
def test_an_object_round_trips(value: dict[str, Any]) -> None:
    assert parse_object(json.dumps(value).encode(), "here") == value
