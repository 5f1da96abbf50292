"""A data set with planted flaws comes out the same from folders, archives and parts, by any split and worker."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import pipeline.inventory.listing as listing
import pipeline.inventory.reading as reading
import pipeline.sources.cambrian as cambrian_source
import pipeline.steps.inventory as inventory
from pipeline.artifacts.store import Artifact
from pipeline.compute.resources import Resources
from pipeline.inventory.listing import needed
from pipeline.sources.images.archives import Archive
from pipeline.sources.images.store import ImageStore
from pipeline.sources.table import DataSet
from tests.pipeline.inventory.fixtures_tree import CHANGES, LAYOUTS, RECORDS, REPAIRS, planted, record
from tests.pipeline.sources.fixtures_pictures import encoded, halves
from tests.pipeline.sources.images.fixtures_archives import tar_bytes
from tests.pipeline.steps.fixtures_single_step import Workshop, table


def images_of(workshop: Workshop, artifact: Artifact) -> ImageStore:
    return DataSet(workshop.source, workshop.folder, artifact.location()).images()


def without_places(records: pa.Table) -> pa.Table:
    return records.drop_columns(["image"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_record_has_its_outcome(tmp_path: Path, layout: str) -> None:
    workshop = Workshop(tmp_path, planted(tmp_path, layout))
    artifact = workshop.inventory(max_reject_share=0.9)
    manifest = artifact.manifest
    assert manifest.counts.rows_in == len(RECORDS)
    assert manifest.counts.rejected == dict(Counter(reason for _, reason in RECORDS if reason))
    lost = {row["line"]: row["reason"] for row in table(artifact, "rejects/").to_pylist()}
    assert lost == {number: reason for number, (_, reason) in enumerate(RECORDS, start=1) if reason}
    expected = dict(REPAIRS)
    if layout == "tree":
        del expected["archive_prefix"]
    assert manifest.statistics["repairs"] == expected
    assert manifest.statistics["changes"] == CHANGES
    assert manifest.statistics["exact_copies"] == 1

    images = images_of(workshop, artifact)
    for row in table(artifact, "records/").to_pylist():
        if row["has_image"]:
            assert hashlib.sha256(images.read(row["image"])).hexdigest() == row["image_sha256"]
            assert images.read_checked(row["image"], row["image_sha256"])
    sources = Counter(table(artifact, "records/")["source"].to_pylist())
    assert sources == {"coco": 14, "web": 2, "allava": 2, "sbu": 1, "": 1}


def test_all_layouts_have_the_same_records(tmp_path: Path) -> None:
    found = []
    for layout in LAYOUTS:
        workshop = Workshop(tmp_path / layout, planted(tmp_path / layout, layout))
        found.append(without_places(table(workshop.inventory(max_reject_share=0.9), "records/")))
    assert all(other.equals(found[0]) for other in found)


@pytest.mark.parametrize("layout", ["tree", "parts", "gzipped"])
def test_parts_of_any_size_and_any_number_of_workers_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    whole = Workshop(tmp_path / "whole", planted(tmp_path / "whole", layout)).inventory(max_reject_share=0.9)
    files: dict[str, Any] = {}
    for split, piece, buckets, threads in ((97, 1, 3, 1), (97, 1, 3, 4), (1000, 5, 7, 2)):
        monkeypatch.setattr(cambrian_source, "SPLIT_BYTES", split)
        monkeypatch.setattr(reading, "PIECE_ENTRIES", piece)
        monkeypatch.setattr(inventory, "BUCKET_RECORDS", -(-20 // buckets))
        monkeypatch.setattr(listing, "MEMBERS_AT_ONCE", 5)
        folder = tmp_path / f"{split}-{threads}"
        workshop = Workshop(folder, planted(folder, layout), resources=Resources(workers=threads))
        artifact = workshop.inventory(max_reject_share=0.9)
        assert table(artifact, "records/").equals(table(whole, "records/"))
        assert table(artifact, "rejects/").equals(table(whole, "rejects/"))
        assert artifact.manifest.statistics == whole.manifest.statistics
        content = {entry.path: entry.sha256 for entry in artifact.manifest.files}
        assert files.setdefault(f"{split}-{piece}", content) == content


def test_a_tar_that_is_cut_in_the_middle(tmp_path: Path) -> None:
    """Members before the cut are good, the one that is cut is truncated, later ones are missing; and it is said."""
    source = planted(tmp_path, "tars")
    path = tmp_path / "images" / "coco.tar"
    content = path.read_bytes()
    cut = content.index(b"coco/train/6.jpg") + 700  # within the bytes of 6.jpg
    path.write_bytes(content[:cut])
    artifact = Workshop(tmp_path, source).inventory(max_reject_share=0.9)
    counts = artifact.manifest.counts.rejected
    assert (counts["truncated"], counts["missing_image"]) == (1, 1 + 5)
    (damage,) = artifact.manifest.statistics["archives_damaged"].items()
    assert damage[0] == "coco.tar"
    assert "cut off within 'coco/train/6.jpg'" in damage[1]


def test_an_image_in_an_archive_that_changed_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    first, second = (encoded(halves(40, 20 + n), "JPEG", quality=90) for n in range(2))
    (folder / "a.tar").write_bytes(tar_bytes({"1.jpg": first}))
    (tmp_path / "records.jsonl").write_text(json.dumps(record("1.jpg")))
    source = planted(tmp_path / "x", "tree").model_copy(
        update={"annotations": str(tmp_path / "records.jsonl"), "images": str(folder)}
    )
    workshop = Workshop(tmp_path, source)
    artifact = workshop.inventory()
    (row,) = table(artifact, "records/").to_pylist()
    (folder / "a.tar").write_bytes(tar_bytes({"1.jpg": second[: len(first)].ljust(len(first), b"\0")}))
    with pytest.raises(Exception, match="changed since the inventory"):
        images_of(workshop, artifact).read_checked(row["image"], row["image_sha256"])


@pytest.mark.parametrize("layout", ["tars", "gzipped"])
def test_a_limit_lists_only_the_archives_that_it_needs_and_keeps_no_other_images(tmp_path: Path, layout: str) -> None:
    whole = Workshop(tmp_path / "whole", planted(tmp_path / "whole", layout)).inventory(max_reject_share=0.9)
    source = planted(tmp_path / "some", layout)
    for path in Path(source.images).iterdir():
        if path.name.startswith("allava"):
            path.write_bytes(b"no archive: it must not be opened")
    artifact = Workshop(tmp_path / "some", source).inventory(limit=5)
    taken = table(artifact, "records/")
    assert without_places(taken).equals(without_places(table(whole, "records/").slice(0, 5)))
    kept = [row["name"] for row in table(artifact, "images/").to_pylist()] if artifact.matching("images/") else []
    assert kept == ([f"coco/train/{n}.jpg" for n in range(5)] if layout == "gzipped" else [])


def test_the_archives_of_some_images() -> None:
    archives = [Archive(f"{name}.tar", ()) for name in ("coco", "sam", "llava")]
    assert needed(archives, ["./coco/1.jpg", "coco/sam/2.jpg"], {}) == [0, 1]
    assert needed(archives, ["SBU/1.jpg"], {"SBU": "llava/images"}) == [2]
    assert needed(archives, ["coco/1.jpg", "1.jpg"], {}) == [0, 1, 2]
    parquet = [Archive(f"data/{n}.parquet", (), "image") for n in range(3)]
    assert needed(parquet, ["data/1.parquet#7"], {}) == [1]
