"""Raw data on s3:// give the same inventory as on a disk, file by file; its images are read from there."""

import json
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

import pipeline.sources.cambrian as cambrian_source
import pipeline.sources.lines as lines
from model.errors import DataError
from pipeline.plan.fingerprints import Fingerprints
from pipeline.sources.config import CambrianSource
from pipeline.sources.images.folders import RemoteFolder
from pipeline.sources.table import DataSet
from tests.fixtures_s3 import BUCKET
from tests.pipeline.inventory.fixtures_tree import planted
from tests.pipeline.steps.fixtures_single_step import Workshop, table

pytestmark = pytest.mark.usefixtures("s3")


def uploaded(source: CambrianSource) -> CambrianSource:
    """The same data set below a new prefix."""
    prefix = f"{BUCKET}/{uuid.uuid4().hex}"
    fs = S3FileSystem()
    fs.put_file(source.annotations, f"{prefix}/records.jsonl")
    for path in Path(source.images).rglob("*"):
        if path.is_file():
            fs.put_file(str(path), f"{prefix}/images/{path.relative_to(source.images).as_posix()}")
    places = {"annotations": f"s3://{prefix}/records.jsonl", "images": f"s3://{prefix}/images"}
    return source.model_copy(update=places)


@pytest.mark.parametrize("layout", ["tree", "parts", "gzipped", "mixed"])
def test_the_inventory_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    monkeypatch.setattr(cambrian_source, "SPLIT_BYTES", 997)
    monkeypatch.setattr(lines, "BLOCK", 300)
    source = planted(tmp_path / "disk", layout)
    local = Workshop(tmp_path / "disk", source).inventory(max_reject_share=0.9)
    workshop = Workshop(tmp_path / "s3", uploaded(source))
    remote = workshop.inventory(max_reject_share=0.9)
    assert {e.path: e.sha256 for e in remote.manifest.files} == {e.path: e.sha256 for e in local.manifest.files}
    assert remote.manifest.statistics == local.manifest.statistics
    images = DataSet(workshop.source, tmp_path, remote.location()).images()
    for row in table(remote, "records/").to_pylist():
        if row["has_image"]:
            images.read_checked(row["image"], row["image_sha256"])


def test_images_that_the_inventory_keeps_are_read_from_a_store_on_s3(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, planted(tmp_path, "gzipped"), root=f"s3://{BUCKET}/{uuid.uuid4().hex}")
    artifact = workshop.inventory(max_reject_share=0.9)
    images = DataSet(workshop.source, tmp_path, artifact.location()).images()
    kept = [name for name in artifact.files if name.startswith("images/")]
    assert kept
    with artifact.open("records/part-00000-of-00001.parquet") as stream:
        rows = pq.read_table(stream).to_pylist()
    for row in rows:
        if row["has_image"]:
            assert row["image"].startswith("kept://")
            images.read_checked(row["image"], row["image_sha256"])


def test_a_store_that_does_not_answer_is_no_missing_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = uploaded(planted(tmp_path, "tree"))

    def refused(self: RemoteFolder, path: str) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(RemoteFolder, "_info", refused)
    with pytest.raises((OSError, DataError), match="Access Denied"):
        Workshop(tmp_path, source).inventory(max_reject_share=0.9)


def test_the_fingerprint_sees_other_content_of_the_same_size(tmp_path: Path) -> None:
    source = uploaded(planted(tmp_path, "tars"))
    before = Fingerprints(tmp_path / "scratch").source("pretrain", source)
    assert Fingerprints(tmp_path / "other").source("pretrain", source) == before
    fs, path = S3FileSystem(), f"{source.images.removeprefix('s3://')}/coco.tar"
    content = fs.cat_file(path)
    fs.pipe_file(path, bytes(reversed(content)))
    S3FileSystem.clear_instance_cache()
    assert Fingerprints(tmp_path / "scratch").source("pretrain", source) != before
    missing = source.model_copy(update={"annotations": source.annotations + "x"})
    with pytest.raises(DataError, match=json.dumps(missing.annotations)[1:-1]):
        Fingerprints(tmp_path / "scratch").source("pretrain", missing)
