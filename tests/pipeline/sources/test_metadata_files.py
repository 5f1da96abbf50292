"""Hugging Face's layout of an image folder."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError, DataError
from pipeline.sources.config import FolderSource
from pipeline.sources.image_folder import open_image_folder
from pipeline.sources.metadata_files import below_root, metadata_files
from pipeline.sources.records import Record, Rejected
from tests.pipeline.sources.fixtures_rows import entries_of


def write(folder: Path, name: str, *rows: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))


def records(folder: Path, **settings: Any) -> list[tuple[str | None, str]]:
    entries = entries_of(open_image_folder(FolderSource(images=str(folder), **settings)))
    return [(e.image, e.turns[0].answer) if isinstance(e, Record) else ("", e.reason) for e in entries]


def test_metadata_beside_the_images(tmp_path: Path) -> None:
    write(tmp_path, "metadata.jsonl", {"file_name": "0.jpg", "text": "A dog."}, {"file_name": "a/1.jpg", "text": "x"})
    assert records(tmp_path) == [("0.jpg", "A dog."), ("a/1.jpg", "x")]


def test_metadata_in_the_folders_of_splits(tmp_path: Path) -> None:
    """Each file names images relative to its own folder; files are read in the order of their paths."""
    write(tmp_path / "train", "metadata.csv", "file_name,caption", '0.jpg,"A dog, sitting"', "1.jpg,a, b")
    write(tmp_path / "test" / "deep", "metadata.jsonl", {"file_name": "0.jpg", "text": "A cat."}, "nonsense")
    pq.write_table(pa.table({"file_name": ["./0.jpg"], "text": ["A bird."]}), tmp_path / "test" / "metadata.parquet")
    write(tmp_path / ".cache", "metadata.csv", "nonsense")
    write(tmp_path / "__pycache__", "metadata.csv", "nonsense")
    write(tmp_path, "other.jsonl", "nonsense")
    assert records(tmp_path) == [
        ("test/deep/0.jpg", "A cat."),
        ("", "malformed_json"),
        ("test/./0.jpg", "A bird."),
        ("train/0.jpg", "A dog, sitting"),
        ("", "malformed_csv"),
    ]
    entries = entries_of(open_image_folder(FolderSource(images=str(tmp_path))))
    details = [entry.detail for entry in entries if isinstance(entry, Rejected)]
    assert details[0].startswith("test/deep/metadata.jsonl, line 2: ")
    assert details[1].startswith("train/metadata.csv, line 3: 3 fields")


def test_the_column_of_the_captions_can_be_named(tmp_path: Path) -> None:
    write(tmp_path, "metadata.csv", "file_name,zh,caption", "0.jpg,z,c")
    assert records(tmp_path) == [("0.jpg", "c")]
    assert records(tmp_path, caption_column="zh") == [("0.jpg", "z")]
    with pytest.raises(DataError, match=r"needs a column .* and a column 'title'; it has \['file_name', 'zh', 'capt"):
        records(tmp_path, caption_column="title")


def test_a_captions_file_comes_before_metadata(tmp_path: Path) -> None:
    write(tmp_path, "metadata.jsonl", {"file_name": "0.jpg", "text": "metadata"})
    write(tmp_path, "c.jsonl", {"file_name": "0.jpg", "text": "captions"})
    assert records(tmp_path, captions=str(tmp_path / "c.jsonl")) == [("0.jpg", "captions")]
    assert metadata_files(FolderSource(images=str(tmp_path), captions="c.jsonl")) == {}
    assert metadata_files(FolderSource(images=str(tmp_path), records="existence")) == {}


def test_rows_of_metadata_that_are_rejected(tmp_path: Path) -> None:
    write(
        tmp_path / "train",
        "metadata.jsonl",
        *({"file_name": name, "text": "x"} for name in (None, "", "nan", 5)),
        {"file_names": ["0.jpg", "1.jpg"], "text": "x"},
        {"file_name": "0.jpg", "label": 1},
    )
    reasons = [reason for _, reason in records(tmp_path)]
    assert reasons == [*["no_image_reference"] * 3, "bad_image_reference", "multi_image", "no_caption"]


def test_no_name_is_moved_into_the_folder_of_its_metadata() -> None:
    """Absolute paths, URLs and paths out of the folder stay recognisable, and are rejected when they are opened."""
    assert below_root("train/metadata.csv", "0.jpg") == "train/0.jpg"
    assert below_root("metadata.csv", "0.jpg") == "0.jpg"
    assert below_root("train/metadata.csv", "../../etc/passwd") == "train/../../etc/passwd"
    for name in ("/etc/passwd", "https://a.b/0.jpg", "", None, ["0.jpg"]):
        assert below_root("train/metadata.csv", name) == name


def test_layouts_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with pytest.raises(ConfigError, match=r"needs 'captions', .*, or a metadata\.jsonl"):
        records(images)
    write(images / "train", "metadata.jsonl", {"file_name": "0.jpg", "text": "x"})
    write(images / "train", "metadata.csv", "file_name,text")
    with pytest.raises(DataError, match=r"train has both metadata\.csv and metadata\.jsonl; keep one"):
        records(images)
    (images / "train" / "metadata.csv").unlink()
    write(tmp_path, "secret.jsonl", {"file_name": "0.jpg", "text": "x"})
    (images / "metadata.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(DataError, match=r"metadata\.jsonl is a link out of the image folder"):
        records(images)
