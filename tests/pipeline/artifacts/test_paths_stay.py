"""Names and paths from manifests, seals, jobs and run files never lead out of the store."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.run.event_log import EventLog
from flows.run.run_file import read_run
from model.errors import AgevlmError, ArtifactError
from pipeline.artifacts.manifest import SELF, FileEntry
from pipeline.artifacts.shards import Seal, Shards
from pipeline.artifacts.spec import ArtifactRef, canonical_json, digest, safe_name, safe_path
from pipeline.artifacts.store import ArtifactStore
from tests.pipeline.artifacts.conftest import Publish

NAMES = ["", ".", "..", "a/b", "/a", "../a", "a\\b", "a\0b", "a\nb", "\x1b[2J", "n" * 256]
PATHS = ["", "/etc/passwd", "../x", "a/../../x", "a/..", "a//b", "./a", "a/", "..\\x", "a\0", "C:\\x", "x/" + "n" * 256]


@pytest.mark.parametrize("name", NAMES)
def test_no_artifact_has_such_a_name(name: str) -> None:
    for field in ("kind", "name", "id"):
        with pytest.raises(ValidationError, match="no file name"):
            ArtifactRef(**{"kind": "masks", "name": "pretrain", "id": "0" * 64, field: name})


@pytest.mark.parametrize("path", PATHS)
def test_no_file_of_an_artifact_or_shard_has_such_a_path(path: str) -> None:
    with pytest.raises(ValidationError, match="does not stay in its folder"):
        FileEntry(path=path, size=1, sha256="0" * 64)
    good = Seal(files=(FileEntry(path="a/b.parquet", size=1, sha256="0" * 64),), rows=1, inputs="x")
    body = good.model_dump(mode="json")
    body["files"][0]["path"] = path
    sealed = canonical_json({"seal": body, "sha256": digest(body)}).encode()
    assert Seal.from_bytes(sealed) is None, "a seal with it commits nothing"
    assert Seal.from_bytes(good.to_bytes()) == good


@given(st.text())
def test_a_path_that_is_accepted_stays_in_its_folder(text: str) -> None:
    try:
        safe_path(text)
    except ValueError:
        return
    assert (Path("/a/b") / text).resolve().is_relative_to("/a/b")
    assert (Path("/a/b") / text).resolve() != Path("/a/b")


@given(st.text(alphabet="ab_-. 0\u00e9", min_size=1).filter(lambda text: set(text) != {"."}))
def test_usual_names_are_accepted(text: str) -> None:
    assert safe_name(text) == text


@pytest.mark.parametrize("change", [{"data": "../../elsewhere"}, {"data": "/etc"}, {"file": "../../../x"}])
def test_a_manifest_that_leads_elsewhere_is_damaged(change: dict[str, str], publish: Publish) -> None:
    artifact = publish("masks")
    store = artifact.store
    path = Path(store.manifest_path(artifact.ref))
    body = json.loads(path.read_bytes())
    del body[SELF]
    if "data" in change:
        body["data"] = change["data"]
    else:
        body["files"][0]["path"] = change["file"]
    path.write_text(canonical_json({**body, SELF: digest(body)}))
    with pytest.raises(ArtifactError, match="damaged"):
        store.get(artifact.ref)


@pytest.mark.parametrize("run", ["../secret", "../../x", "a/../../../x", "x\0y"])
def test_no_run_id_leads_out_of_the_store(run: str, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    store = ArtifactStore(str(tmp_path / "store"))
    with pytest.raises(AgevlmError, match="leads out of the store"):
        read_run(store, run)
    EventLog(store, run).write("run_start")  # an event fails no run; it is written nowhere
    with pytest.raises(AgevlmError, match="leads out of the store"):
        Shards(store, "kind/name/id/data", "x").path(f"../{run}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.json"]
