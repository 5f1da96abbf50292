"""Captions files of every format, also malformed ones."""

import json
import os
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.errors import DataError
from pipeline.sources.captions import Caption, read_captions
from pipeline.sources.records import Rejected

ROWS = [("0.jpg", "A dog."), ("b/1.jpg", "A cat,\nsitting.")]


def found(path: Path, column: str | None = None) -> list[tuple[Any, ...] | str]:
    """Image, text and id of each row, or the reason for which it is rejected."""
    rows = read_captions(path, column)
    return [row.reason if isinstance(row, Rejected) else (row.image, row.text, row.given_id) for row in rows]


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("image", ["image", "file_name"])
@pytest.mark.parametrize("text", ["caption", "text", "zh"])
def test_tables_name_their_columns_in_several_ways(tmp_path: Path, image: str, text: str) -> None:
    """Each format as pandas and pyarrow write it."""
    table = pandas.DataFrame(
        [{"extra": 1.5, text: caption, image: name, "id": n} for n, (name, caption) in enumerate(ROWS)]
    )
    table.to_csv(tmp_path / "c.csv", index=False)
    table.to_csv(tmp_path / "indexed.csv", lineterminator="\r\n")
    table.to_json(tmp_path / "c.jsonl", orient="records", lines=True)
    table.to_parquet(tmp_path / "c.parquet")
    table.astype({image: "category"}).to_parquet(tmp_path / "d.parquet", index=True)
    for name in ("c.csv", "indexed.csv", "c.jsonl", "c.parquet", "d.parquet"):
        rows = found(tmp_path / name, text if text == "zh" else None)
        as_text = name.endswith(".csv")
        assert rows == [(*row, str(n) if as_text else n) for n, row in enumerate(ROWS)], name


def test_the_first_of_several_columns_is_taken_or_the_named_one(tmp_path: Path) -> None:
    path = file(tmp_path, "c.csv", "text,caption,file_name,image\nt,c,f.jpg,i.jpg\n")
    lines = file(tmp_path, "c.jsonl", '{"text": "t", "caption": "c", "file_name": "f.jpg", "image": "i.jpg"}')
    for name in (path, lines):
        assert found(name) == [("i.jpg", "c", None)]
        assert found(name, "text") == [("i.jpg", "t", None)]


def test_column_names_may_have_spaces_and_capitals(tmp_path: Path) -> None:
    path = file(tmp_path, "c.csv", "\ufeffID, Image ,CAPTION\n7,0.jpg,A dog.\n")
    assert found(path) == [("0.jpg", "A dog.", "7")]
    exact = file(tmp_path, "d.csv", "Caption,caption,image\nno,yes,0.jpg\n")
    assert found(exact) == [("0.jpg", "yes", None)]


HEADERS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "blank lines": ("\n\n", "is empty"),
    "other columns": ("picture,words\n", r"'caption' or 'text'; it has \['picture', 'words'\]; name the text's column"),
    "semicolons": ("image;caption\n0.jpg;x\n", "separated by ';': separate it by commas"),
    "tabs": ("image\tcaption\n0.jpg\tx\n", r"separated by '\\t': separate it by commas"),
    "two captions": ("image,caption,caption\n", "has 2 columns 'caption'; leave one"),
    "two captions in other cases": ("image,Caption,CAPTION\n", "has 2 columns 'caption'; leave one"),
    "an open quote": ('image,"caption\n0.jpg,x\n', "header cannot be read"),
    "CR alone": ("image,caption\r0.jpg,x\r", "header cannot be read .* end lines with LF or CRLF"),
    "UTF-16": ("image,caption\n0.jpg,x\n".encode("utf-16"), "is not UTF-8"),
    "not UTF-8": (b"image,l\xe9gende\n0.jpg,x\n", r"it has \['image', 'l\\udce9gende'\]"),
}


@pytest.mark.parametrize(("content", "message"), HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_cannot_be_used_is_an_error(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = file(tmp_path, "c.csv", content)
    with pytest.raises(DataError, match=rf"captions file .*c\.csv.*{message}") as error:
        list(read_captions(path))
    str(error.value).encode("utf-8")
    with pytest.raises(DataError, match=r"a column 'zh'; it has \['image', 'caption'\]"):
        list(read_captions(file(tmp_path, "d.csv", "image,caption\n"), "zh"))


def test_rows_of_a_csv_have_their_line_and_reason(tmp_path: Path) -> None:
    path = file(tmp_path, "c.csv", 'image,caption\n\n0.jpg,"A\ndog"\n1.jpg,A dog, a cat\n2.jpg,x\n')
    good, bad, last = read_captions(path)
    assert isinstance(good, Caption)
    assert isinstance(last, Caption)
    assert [(row.line, row.where) for row in (good, last)] == [(3, "line 3"), (6, "line 6")]
    assert isinstance(bad, Rejected)
    assert (bad.reason, len(bad.sample_id)) == ("malformed_csv", 64)
    assert bad.detail.startswith("line 5: 3 fields, the header has 2")
    assert found(file(tmp_path, "d.csv", "image,caption\n")) == []


def test_json_lines_name_what_a_row_lacks(tmp_path: Path) -> None:
    lines = [
        {"file_name": "0.jpg", "title": "x"},
        {"file_names": ["0.jpg", "1.jpg"], "text": "x"},
        {"file_names": ["0.jpg"], "text": "x"},
        {"file_names": "0.jpg", "text": "x"},
        {"file_names": [], "text": "x"},
        {"text": "x"},
    ]
    path = file(tmp_path, "c.jsonl", "\n".join(map(json.dumps, lines)) + "\n{\n")
    alone, none = ("0.jpg", "x", None), (None, "x", None)
    assert found(path) == ["no_caption", "multi_image", alone, "multi_image", none, none, "malformed_json"]
    first = next(read_captions(path))
    assert isinstance(first, Rejected)
    assert first.detail == "line 1 has no 'caption' or 'text'; it has ['file_name', 'title']"


def test_a_parquet_file_of_several_images_a_row(tmp_path: Path) -> None:
    table = pa.table({"file_names": [["0.jpg"], ["0.jpg", "1.jpg"], [], None], "text": ["a", "b", "c", None]})
    pq.write_table(table, tmp_path / "c.parquet")
    assert found(tmp_path / "c.parquet") == [("0.jpg", "a", None), "multi_image", (None, "c", None), (None, None, None)]


def test_texts_of_a_parquet_file_that_are_not_utf8_cost_one_row(tmp_path: Path) -> None:
    bad = pa.array([b"A dog.", b"\xff"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"image": ["0.jpg", "1.jpg"], "caption": bad}), tmp_path / "c.parquet")
    assert found(tmp_path / "c.parquet") == [("0.jpg", "A dog.", None), ("1.jpg", "\udcff", None)]


def test_a_parquet_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": ["0.jpg"] * 5000, "caption": [os.urandom(9).hex() for _ in range(5000)]}),
        tmp_path / "c.parquet",
    )
    data = bytearray((tmp_path / "c.parquet").read_bytes())
    data[2000:4000] = os.urandom(2000)
    for content in (b"nonsense", b"", bytes(data), bytes(data[:-100])):
        with pytest.raises(DataError, match=r"c\.parquet cannot be read as Parquet: .*; write it again"):
            found(file(tmp_path, "c.parquet", content))
    pq.write_table(pa.table({"image": [{"bytes": b"x"}], "caption": ["x"]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"column 'image' holds struct<.*write the images as files"):
        found(tmp_path / "d.parquet")
    pq.write_table(pa.table({"a.b": ["x"], "image": ["0.jpg"]}), tmp_path / "e.parquet")
    assert found(tmp_path / "e.parquet", "a.b") == [("0.jpg", "x", None)]
    with pytest.raises(DataError, match=r"e\.parquet needs a column"):
        found(tmp_path / "e.parquet")


def test_coco_captions(tmp_path: Path) -> None:
    images = [{"id": 12, "file_name": "./0.jpg"}, {"id": 13, "file_name": "1.jpg"}, {"id": 13, "file_name": "2.jpg"}, 5]
    rows = [{"image_id": n, "id": n, "caption": "x"} for n in (12, "12", 12.0, 13, 14, None)]
    path = file(tmp_path, "c.json", json.dumps({"images": images, "annotations": [*rows, "x"]}))
    assert found(path) == [
        *(("0.jpg", "x", given) for given in (12, "12", 12.0)),
        "duplicate_image_id",
        *((None, "x", given) for given in (14, None)),
        "bad_annotation",
    ]
    last = list(read_captions(path))[-2:]
    assert isinstance(last[0], Caption)
    assert (last[0].line, last[0].where) == (6, "annotation number 6")
    assert isinstance(last[1], Rejected)
    assert last[1].detail == "annotation number 7 is str, not an object"


def test_a_file_of_another_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give a \.json \(COCO\), \.csv, \.jsonl or \.parquet"):
        read_captions(file(tmp_path, "c.txt", "x"))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text('ab1.jpg ,;"\\\n\r\0\udcff', max_size=60), st.sampled_from(["", "image,caption\n", '"text",file_name\r\n'])
)
def test_any_csv_is_read_or_is_an_error(tmp_path: Path, text: str, header: str) -> None:
    path = file(tmp_path, "c.csv", header.encode() + text.encode("utf-8", "surrogateescape"))
    try:
        rows = list(read_captions(path))
    except DataError:
        assert not header
        return
    assert all(isinstance(row, Caption | Rejected) for row in rows)
    assert len(rows) <= len([line for line in text.split("\n") if line.strip()])
