"""Parquet files with images inside: records, images and errors."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError, DataError
from pipeline.sources.config import ParquetSource
from pipeline.sources.parquet import ParquetReader
from pipeline.sources.records import Rejected
from pipeline.sources.table import DataSet
from tests.pipeline.sources.fixtures_pictures import encoded, halves
from tests.pipeline.sources.fixtures_rows import entries_of
from tests.pipeline.steps.fixtures_single_step import Workshop, table

PICTURES = [encoded(halves(24 + n, 16), "JPEG", quality=90) for n in range(4)]


def chat(text: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": text}, {"from": "gpt", "value": "Two halves."}]


def written(folder: Path, **files: list[dict[str, Any]]) -> ParquetSource:
    """A data set with these rows in its files."""
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet", row_group_size=2)
    return ParquetSource(files=str(folder))


def published(folder: Path) -> ParquetSource:
    """Two files as Hugging Face publishes them: images with bytes, one record without an image, one bad image."""
    with_image = [
        {"id": f"r{n}", "image": {"bytes": data, "path": f"{n}.jpg"}, "conversations": chat(f"<image>\nNumber {n}?")}
        for n, data in enumerate(PICTURES)
    ]
    rest = [
        {"id": "talk", "image": None, "conversations": chat("Hello?")},
        {"id": "bad", "image": {"bytes": b"<html>", "path": "x.jpg"}, "conversations": chat("<image>\nWhat?")},
        {"id": "lost", "image": None, "conversations": chat("<image>\nWhat?")},
    ]
    return written(folder, b=[*with_image[2:], *rest], a=with_image[:2])


def test_an_inventory_keeps_the_images_and_counts_every_row(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, published(tmp_path / "data"))
    artifact = workshop.inventory(max_reject_share=0.9)
    rows = table(artifact, "records/").to_pylist()
    assert [row["given_id"] for row in rows] == ["r0", "r1", "r2", "r3", "talk"]
    assert [row["has_image"] for row in rows] == [True] * 4 + [False]
    images = DataSet(workshop.source, workshop.folder, artifact.location()).images()
    for row, data in zip(rows, PICTURES, strict=False):
        assert images.read(row["image"]) == data
        assert row["image_sha256"] == hashlib.sha256(data).hexdigest()
    lost = {row["given_id"]: (row["reason"], row["line"]) for row in table(artifact, "rejects/").to_pylist()}
    assert lost == {"bad": ("not_an_image", 6), "lost": ("no_image_reference", 7)}


def test_a_caption_becomes_the_answer_to_an_instruction(tmp_path: Path) -> None:
    rows = [
        {"image": PICTURES[0], "text": "Red and blue."},
        {"image": None, "text": "Words."},
        {"image": b"", "text": None},
    ]
    first, second, third = entries_of(ParquetReader(written(tmp_path / "data", a=rows)))
    assert not isinstance(first, Rejected)
    assert not isinstance(second, Rejected)
    assert (first.image, first.turns[0].answer, first.changes) == ("a.parquet#0", "Red and blue.", ())
    assert (second.image, second.turns[0].answer) == (None, "Words.")
    assert isinstance(third, Rejected)
    assert (third.reason, third.number) == ("bad_conversation", 3)


@pytest.mark.parametrize(
    ("rows", "settings", "problem"),
    [
        ([{"picture": b"x", "text": "a"}], {}, "has no column 'image'"),
        ([{"image": b"x", "words": "a"}], {}, "has none of the columns"),
        ([{"image": b"x", "text": "a"}], {"caption": "zh"}, "has no column 'zh'"),
    ],
)
def test_a_column_that_is_not_there_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, str], problem: str
) -> None:
    source = written(tmp_path / "data", a=rows)
    with pytest.raises(ConfigError, match=problem):
        ParquetReader(source.model_copy(update=settings))


def test_files_that_are_not_there_or_no_parquet_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        ParquetReader(ParquetSource(files=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"holds no \.parquet file"):
        ParquetReader(ParquetSource(files=str(tmp_path)))
    (tmp_path / "a.parquet").write_bytes(b"not Parquet at all")
    with pytest.raises(DataError, match=r"a\.parquet is no Parquet file"):
        ParquetReader(ParquetSource(files=str(tmp_path)))
    source = written(tmp_path / "data", a=[{"image": b"x", "text": "a"}], b=[{"image": b"x", "other": "a"}])
    with pytest.raises(DataError, match=r"b\.parquet lacks the column 'text'"):
        entries_of(ParquetReader(source))
