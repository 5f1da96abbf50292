"""Ids: they depend on the fields of the spec and on nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts.spec import StepSpec, canonical_json, digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_canonical_json_round_trips_and_is_stable(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert text.isascii()


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


def test_nan_has_no_canonical_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_every_part_of_a_spec_changes_its_id() -> None:
    base = StepSpec(step="masks", revision=1, params={"gate": 0.5}, inputs={"segments": "a"})
    others = [
        base.model_copy(update={"step": "segment"}),
        base.model_copy(update={"revision": 2}),
        base.model_copy(update={"params": {"gate": 0.6}}),
        base.model_copy(update={"inputs": {"segments": "b"}}),
    ]
    assert len({base.id(), *(other.id() for other in others)}) == 5


def test_each_attempt_has_a_different_id_and_the_first_is_the_hash() -> None:
    spec = StepSpec(step="masks", revision=1, params={}, inputs={})
    assert spec.id() == spec.hash
    assert len({spec.id(0), spec.id(1), spec.id(2)}) == 3


def test_the_id_of_a_known_spec_never_changes() -> None:
    spec = StepSpec(step="masks", revision=1, params={"min_area": 0.001}, inputs={"segments": "0" * 64})
    text = '{"inputs":{"segments":"' + "0" * 64 + '"},"params":{"min_area":0.001},"revision":1,"step":"masks"}'
    assert canonical_json(spec.model_dump(mode="json")) == text
    assert spec.id() == digest(json.loads(text))
