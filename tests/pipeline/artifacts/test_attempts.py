"""Attempts are issued by compare-and-swap: no two writers get the same one, on a local disk and on an object store."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.spec import StepSpec
from pipeline.artifacts.store import ArtifactStore
from tests.pipeline.artifacts.fixtures_writers import at_once

SPEC = StepSpec(step="masks", revision=1, params={}, inputs={})
FORCES = 15
FORCE = """
from pipeline.artifacts.spec import StepSpec
from pipeline.artifacts.store import ArtifactStore
store, spec = ArtifactStore(sys.argv[1]), StepSpec.model_validate_json(sys.argv[2])
store.attempt(spec)
begin()
print([store.new_attempt(spec) for _ in range(int(sys.argv[3]))])
"""


@pytest.mark.parametrize("any_store", ["disk", pytest.param("s3", marks=pytest.mark.system)], indirect=True)
def test_processes_that_force_at_once_never_get_the_same_attempt(any_store: ArtifactStore) -> None:
    outputs = at_once(FORCE, any_store.root, SPEC.model_dump_json(), str(FORCES))
    issued = [attempt for output in outputs for attempt in json.loads(output)]
    assert sorted(issued) == list(range(1, len(outputs) * FORCES + 1)), "distinct, and none is left out"
    assert any_store.attempt(SPEC) == max(issued)


def test_an_attempt_is_reached_once(any_store: ArtifactStore) -> None:
    any_store.reach_attempt(SPEC, 1)
    any_store.reach_attempt(SPEC, 1)
    assert any_store.attempt(SPEC) == 1
    assert any_store.new_attempt(SPEC) == 2
    any_store.reach_attempt(SPEC, 1)
    assert any_store.attempt(SPEC) == 2, "an attempt never goes back"


def test_the_earlier_format_is_read_and_continued(any_store: ArtifactStore) -> None:
    any_store.write_json(f"refs/{SPEC.hash}.json", {"attempt": 3, "step": "masks"})
    assert any_store.attempt(SPEC) == 3
    any_store.reach_attempt(SPEC, 3)
    assert any_store.attempt(SPEC) == 3
    assert any_store.new_attempt(SPEC) == 4
    assert any_store.attempt(SPEC) == 4
    assert any_store.attempt(SPEC.model_copy(update={"revision": 2})) == 0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(1, 6)), max_size=12))
def test_the_current_attempt_is_the_largest_issued(calls: list[int | None]) -> None:
    """None forces; a number reaches that attempt."""
    with tempfile.TemporaryDirectory() as folder:
        store, current = ArtifactStore(str(Path(folder))), 0
        for call in calls:
            if call is None:
                assert store.new_attempt(SPEC) == current + 1
                current += 1
            else:
                store.reach_attempt(SPEC, call)
                current = max(current, call)
            assert store.attempt(SPEC) == current
