"""A JSON array read element by element, in blocks of any size."""

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.sources.json_array as json_array
from model.errors import DataError
from pipeline.sources.json_array import array_elements

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def elements(text: str, block: int = 1 << 20) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "BLOCK", block)
        lines = list(array_elements(io.BytesIO(text.encode()), "a.json"))
    assert not any(b"\n" in line or b"\r" in line for line in lines)
    return [json.loads(line) for line in lines]


@settings(max_examples=100, deadline=None)
@given(st.lists(values, max_size=5), st.sampled_from([None, 1]), st.booleans(), st.integers(1, 7))
def test_the_elements_are_those_of_the_array(
    items: list[Any], indent: int | None, ascii_only: bool, block: int
) -> None:
    text = json.dumps(items, indent=indent, ensure_ascii=ascii_only)
    assert elements(text, block) == items
    assert elements(f"\ufeff \r\n{text}\n ", block) == items


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"a": 1}, {"a": ', "from character 11 on"),
        ('[{"a": 1}', "it ends within the array"),
        ('[{"a": 1} {"a": 2}]', "expected ','"),
        ("[1, 2] 3", "text after the end of the array"),
        ("[1, x]", "from character 4 on"),
        ("[" + "[" * 100_000, "recursion"),
    ],
)
def test_where_it_stops_being_json_is_named(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=r"a\.json is no JSON array") as caught:
        elements(text)
    assert problem in str(caught.value)


def test_the_elements_before_a_fault_are_read() -> None:
    found = array_elements(io.BytesIO(b'[{"a": 1}, {"b": 2}, oops]'), "a.json")
    assert [next(found), next(found)] == [b'{"a": 1}', b'{"b": 2}']
    with pytest.raises(DataError):
        next(found)


def test_bytes_that_are_not_utf8_are_an_error() -> None:
    with pytest.raises(DataError, match="not UTF-8"):
        list(array_elements(io.BytesIO(b'["\xff"]'), "a.json"))
