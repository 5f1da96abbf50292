"""The manifest: it is read only as it was written, and its content's digest leaves out where and when."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.artifacts.manifest import SELF, Counts, FileEntry, Manifest, Parent, Provenance
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
def test_what_was_written_is_what_is_read(statistics: dict[str, Any]) -> None:
    made = manifest(statistics=statistics)
    read = Manifest.from_bytes(made.to_bytes())
    assert read == made
    assert read.to_bytes() == made.to_bytes()
    assert read.content_sha256 == made.content_sha256


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a JSON document."""
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
def test_what_is_no_manifest_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*validation error)"):
        Manifest.from_bytes(content)


def test_another_format_is_named() -> None:
    with pytest.raises(ValueError, match="its format is 1, but this version of agevlm reads format 2"):
        Manifest.from_bytes(b'{"format":1}')


def test_a_digest_made_for_wrong_fields_does_not_make_them_right() -> None:
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
def test_an_id_belongs_to_its_spec_and_the_parents_to_its_inputs(changes: dict[str, Any], message: str) -> None:
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
def test_the_contents_digest_follows_what_was_made_and_not_when_or_where(changes: dict[str, Any], same: bool) -> None:
    changed = manifest(**changes)
    assert (changed.content_sha256 == manifest().content_sha256) is same
    assert changed.sha256 != manifest().sha256
