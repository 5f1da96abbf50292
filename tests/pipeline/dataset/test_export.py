"""An exported data set opens with `datasets`, is whole or absent, and tells no names of machines."""

import errno
import json
import os
from pathlib import Path
from typing import IO

import markdown_it
import pyarrow as pa
import pytest
import yaml

from model.errors import ArtifactError, ConfigError
from pipeline.artifacts.manifest import Counts, Origin
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.dataset.export import export_dataset


def publish(store: ArtifactStore, kind: str) -> Artifact:
    spec = StepSpec(step=kind, revision=1, params={"word": "<script>|"}, inputs={})
    page = "http://secret-host:4200/runs/1"
    origin = Origin(flow_run_id="secret-run", flow_run_page=page, job_page=page)
    ref = ArtifactRef(kind=kind, name="x", id=spec.id())
    staging = Staging(store, ref, spec, 0, {}, job="secret-job", origin=origin)
    for number in range(2):
        rows = [{"query": f"q{number}", "area": 3}] * (2 - 2 * number)
        schema = pa.schema([("query", pa.string()), ("area", pa.int64())])
        staging.write_table(f"part-0000{number}-of-00002.parquet", pa.Table.from_pylist(rows, schema=schema))
    staging.write_rejects([])
    return staging.publish(Counts(unit="query", rows_in=2, rows_out=2))


def test_datasets_opens_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    artifact = publish(ArtifactStore(str(tmp_path / "store")), "masks")
    target = tmp_path / "out"
    export_dataset(artifact, target)
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(target), split="train", cache_dir=cache)
    assert rows["query"][:] == ["q0", "q0"]
    assert datasets.get_dataset_config_names(str(target)) == ["default"], "no table without rows"
    text = "".join((target / name).read_text() for name in ("README.md", "manifest.json", "lineage.json"))
    assert "secret-" not in text, "the names of jobs and machines"
    assert "license: unknown" in text
    assert "&lt;script>\\|" in (target / "README.md").read_text()
    assert json.loads((target / "manifest.json").read_text())["content_sha256"] == artifact.manifest.content_sha256
    with pytest.raises(ConfigError, match="not an empty folder"):
        export_dataset(artifact, target)


def test_a_damaged_file_leaves_no_folder(tmp_path: Path) -> None:
    artifact = publish(ArtifactStore(str(tmp_path / "store")), "masks")
    Path(artifact.path(artifact.files[0])).write_bytes(b"other")
    with pytest.raises(ArtifactError, match="is not what was published"):
        export_dataset(artifact, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_report_is_no_data_set(tmp_path: Path) -> None:
    artifact = publish(ArtifactStore(str(tmp_path / "store")), "report")
    with pytest.raises(ConfigError, match="kinds that can are inventory"):
        export_dataset(artifact, tmp_path / "out")


def test_a_url_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifact = publish(ArtifactStore(str(tmp_path / "store")), "masks")
    for url in ("s3://bucket/out", f"file://{tmp_path}/out"):
        with pytest.raises(ConfigError, match="reads as a URL"):
            export_dataset(artifact, Path(url))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("place", ["store", "store/masks/x/out", "link", "file", "file/out", "loop", "a\0b", "x" * 300])
def test_a_target_that_is_no_new_folder_of_its_own_is_refused(tmp_path: Path, place: str) -> None:
    artifact = publish(ArtifactStore(str(tmp_path / "store")), "masks")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_bytes(b"mine")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"in the artifact store|not an empty folder|cannot be (looked at|written)"):
        export_dataset(artifact, tmp_path / place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_link_into_the_store_leads_into_the_store(tmp_path: Path) -> None:
    artifact = publish(ArtifactStore(str(tmp_path / "store")), "masks")
    (tmp_path / "door").symlink_to(tmp_path / "store")
    with pytest.raises(ConfigError, match="in the artifact store"):
        export_dataset(artifact, tmp_path / "door" / "new")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_store_that_cannot_be_read_is_not_blamed_on_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    artifact = publish(ArtifactStore(str(tmp_path / "store")), "masks")

    def broken(self: Artifact, file: str) -> IO[bytes]:
        raise OSError(number, os.strerror(number), file)

    monkeypatch.setattr(Artifact, "open", broken)
    with pytest.raises(ArtifactError, match=f"cannot be read .{os.strerror(number)}"):
        export_dataset(artifact, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_cannot_be_written_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    artifact = publish(ArtifactStore(str(tmp_path / "store")), "masks")

    def full(path: Path, *_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(ConfigError, match=f"out' cannot be written .{os.strerror(number)}") as caught:
            export_dataset(artifact, tmp_path / "out")
    assert ("free" in str(caught.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    export_dataset(artifact, tmp_path / "out")


HOSTILE = (
    "<script>alert(1)</script> [x](javascript:alert(1)) ![x](http://e/x.png) `code` **b**\n---\nlicense: mit\n\x1b[31m"
)


def test_hostile_texts_are_texts_in_the_card(tmp_path: Path) -> None:
    """Reasons of rejects, parameters, columns and names come from recipes and data."""
    store = ArtifactStore(str(tmp_path / "store"))
    name = 'x" `y` {{ 7 * 7 }} <b>'
    spec = StepSpec(step="masks", revision=1, params={HOSTILE: HOSTILE, "list": [HOSTILE]}, inputs={})
    staging = Staging(store, ArtifactRef(kind="masks", name=name, id=spec.id()), spec, 0, {})
    staging.write_table("part-00000-of-00001.parquet", pa.table({HOSTILE: ["a"]}))
    staging.write_table("odd: [name].parquet", pa.table({"a": ["a"]}))
    artifact = staging.publish(Counts(unit="row", rows_in=2, rows_out=1, rejected={HOSTILE: 1}))
    export_dataset(artifact, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    fields = yaml.safe_load(head)
    assert fields["license"] == "unknown"
    assert [config["config_name"] for config in fields["configs"]] == ["default", "odd: [name]"]
    assert "\n---\n" not in body
    assert "\x1b" not in text
    assert "49" not in text
    page = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    kinds = {token.type for block in page for token in (block, *(block.children or ()))}
    assert kinds.isdisjoint({"html_block", "html_inline", "link_open", "image", "strong_open"}), kinds
