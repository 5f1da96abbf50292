"""Parquet files: columns of every type, rows without bytes, and damage."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError, DataError
from pipeline.sources.config import ParquetSource
from tests.pipeline.sources.fixtures_pictures import encoded, halves
from tests.pipeline.steps.fixtures_single_step import Workshop, rejects, table

PICTURE = encoded(halves())


def workshop(folder: Path, *files: bytes | dict[str, Any]) -> Workshop:
    (folder / "data").mkdir()
    for number, content in enumerate(files):
        sink = io.BytesIO()
        if isinstance(content, dict):
            pq.write_table(pa.table(content), sink)
        (folder / "data" / f"{number}.parquet").write_bytes(content if isinstance(content, bytes) else sink.getvalue())
    return Workshop(folder, ParquetSource(files=str(folder / "data")))


def test_a_path_without_bytes_is_a_missing_image_and_no_text_only_record(tmp_path: Path) -> None:
    images = [{"bytes": PICTURE, "path": "1"}, {"bytes": None, "path": "2"}, {"bytes": b"", "path": "3"}, None]
    artifact = workshop(tmp_path, {"image": images, "caption": list("abcd")}).inventory(max_reject_share=0.9)
    assert {reason: len(rows) for reason, rows in rejects(artifact).items()} == {"missing_image": 2}
    assert table(artifact, "records/")["has_image"].to_pylist() == [True, False]


def test_each_file_has_its_own_columns(tmp_path: Path) -> None:
    row = {"image": [PICTURE], "caption": ["a"]}
    artifact = workshop(tmp_path, row, {"id": ["x"], **row, "caption": ["b"]}).inventory()
    assert table(artifact, "records/")["given_id"].to_pylist() == ["", "x"]


@pytest.mark.parametrize("image", [["1.png"], [1], [{"path": "1.png"}], [[{"bytes": PICTURE}]]], ids=repr)
def test_a_column_without_bytes_is_an_error(tmp_path: Path, image: list[Any]) -> None:
    with pytest.raises(ConfigError, match="the column 'image' is"):
        workshop(tmp_path, {"image": image, "caption": ["a"]}).inventory()


def test_a_file_that_is_cut_or_damaged_is_an_error(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": [PICTURE], "caption": ["a" * 999]}), sink)
    whole = sink.getvalue()
    for name, bad in (("cut", whole[:-30]), ("pages", whole[:8] + b"\xff" * 200 + whole[208:])):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=r"1\.parquet is no Parquet file"):
            workshop(tmp_path / name, whole, bad).inventory()
