"""The manifest: edits are found, and the digest of the content does not depend on time and place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.artifacts.manifest import SELF, Counts, FileEntry, Manifest, Origin, Parent, Provenance
from pipeline.artifacts.spec import ArtifactRef, StepSpec, canonical_json, digest

PARENT = ArtifactRef(kind="segments", name="x", id="5" * 64)
SPEC = StepSpec(step="masks", revision=1, params={"gate": 0.5}, inputs={"segments": PARENT.id})
STATISTICS = st.dictionaries(
    st.text(max_size=5),
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    max_size=4,
)


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "ref": ArtifactRef(kind="masks", name="x", id=SPEC.id()),
        "spec": SPEC,
        "parents": {"segments": Parent(ref=PARENT, content_sha256="a" * 64)},
        "data": "data-1",
        "files": [FileEntry(path="a.bin", size=3, sha256="b" * 64)],
        "counts": Counts(unit="row", rows_in=1, rows_out=1),
        "statistics": {"score": 0.25},
        "provenance": Provenance(started="2026-01-01T00:00:00+00:00", seconds=1.0),
    }
    return Manifest(**{**fields, **changes})


@given(STATISTICS)
def test_a_manifest_round_trips(statistics: dict[str, Any]) -> None:
    made = manifest(statistics=statistics)
    read = Manifest.from_bytes(made.to_bytes())
    assert read == made
    assert read.to_bytes() == made.to_bytes()
    assert read.content_sha256 == made.content_sha256


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for name, item in items for leaf in leaves(item, (*path, name)))]


PLACES = [path for path in leaves(json.loads(manifest().to_bytes())) if path and path != ("format",)]


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_no_value_can_be_edited_unnoticed(path: tuple[Any, ...]) -> None:
    body = json.loads(manifest().to_bytes())
    place = body
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = "edited"
    with pytest.raises(ValueError, match="it was changed after it was written"):
        Manifest.from_bytes(canonical_json(body).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\0" * 40, b"\xff"])
def test_bytes_that_are_not_a_manifest_are_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*validation error)"):
        Manifest.from_bytes(content)


def test_an_unknown_format_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="its format is 1, but this version of agevlm reads format 2"):
        Manifest.from_bytes(b'{"format":1}')


def test_wrong_counts_are_refused_even_with_a_matching_digest() -> None:
    body = {**json.loads(manifest().to_bytes()), "counts": {"unit": "row", "rows_in": 2, "rows_out": 1}}
    del body[SELF]
    with pytest.raises(ValueError, match=r"^rows are not conserved: 2 in, but 1 out"):
        Manifest.from_bytes(canonical_json({**body, SELF: digest(body)}).encode())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attempt": 1}, "its spec and attempt make the id"),
        ({"spec": SPEC.model_copy(update={"params": {"gate": 0.9}})}, "its spec and attempt make the id"),
        ({"ref": ArtifactRef(kind="masks", name="x", id="0" * 64)}, "its spec and attempt make the id"),
        ({"parents": {}}, "its parents are not the inputs of its spec"),
    ],
)
def test_the_id_must_follow_from_the_spec_and_the_parents_from_its_inputs(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        manifest(**changes)


ATTEMPT = {"attempt": 1, "ref": ArtifactRef(kind="masks", name="x", id=SPEC.id(1))}
OTHER_SPEC = SPEC.model_copy(update={"revision": 2})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"data": "data-2"}, True),
        ({"provenance": Provenance(started="2027-01-01T00:00:00+00:00", seconds=2.0, host="b", device="c")}, True),
        ({"parents": {"segments": Parent(ref=PARENT, content_sha256="c" * 64)}}, True),
        (ATTEMPT, False),
        ({"spec": OTHER_SPEC, "ref": ArtifactRef(kind="masks", name="x", id=OTHER_SPEC.id())}, False),
        ({"files": [FileEntry(path="a.bin", size=3, sha256="c" * 64)]}, False),
        ({"files": [FileEntry(path="b.bin", size=3, sha256="b" * 64)]}, False),
        ({"files": [*manifest().files, FileEntry(path="provenance/speed", size=3, sha256="b" * 64)]}, True),
        ({"counts": Counts(unit="row", rows_in=2, rows_out=2)}, False),
        ({"statistics": {"score": 0.5}}, False),
    ],
)
def test_the_content_digest_depends_on_the_content_only(changes: dict[str, Any], same: bool) -> None:
    changed = manifest(**changes)
    assert (changed.content_sha256 == manifest().content_sha256) is same
    assert changed.sha256 != manifest().sha256


def test_a_manifest_without_the_flow_run_keeps_its_bytes_and_a_flow_run_is_no_content() -> None:
    before = manifest()
    assert b"origin" not in before.to_bytes()
    assert Manifest.from_bytes(before.to_bytes()).to_bytes() == before.to_bytes()
    run = Origin(flow_run_id="1", flow_run="brave-owl", flow_run_page="http://prefect.test/runs/flow-run/1")
    after = manifest(provenance=before.provenance.model_copy(update={"origin": run}))
    assert Manifest.from_bytes(after.to_bytes()).provenance.origin == run
    assert after.content_sha256 == before.content_sha256
    assert run.run == "brave-owl  http://prefect.test/runs/flow-run/1"
    assert Origin(flow_run_id="1").run == "1"
