"""Captions files: COCO captions JSON, CSV, JSON Lines and Parquet, read as rows of an image and a text.

Tables have the image's path in `image` or `file_name`, the text in `caption` or `text` or a column that the recipe
names, and perhaps an `id`. Every row is a caption or a rejection.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.errors import DataError
from pipeline.sources.coco_file import BadEntry, Findings, ImageTable, entry_name, read_json
from pipeline.sources.csv_rows import Shape, read_rows, split_line
from pipeline.sources.lines import line_id, parse_object, raw_lines
from pipeline.sources.records import Rejected, canonical_id

IMAGE_COLUMNS = ("image", "file_name", "file_names")
"""The first that exists holds the image. Hugging Face's `file_names` is a list, of one image here."""
TEXT_COLUMNS = ("caption", "text")
BATCH_ROWS = 1024  # of a Parquet file


class Caption(NamedTuple):
    """A row of a captions file. Its values are not checked yet."""

    image: Any
    text: Any
    given_id: Any
    line: int
    """The number of its line, annotation or row in the file, from 1."""
    where: str
    """The row's place in the file, for messages."""


Captions = Iterator[Caption | Rejected]


def read_captions(path: Path, text_column: str | None = None) -> Captions:
    """The captions of a file, by its suffix. Raises DataError, also for a table without the columns.

    text_column: the column of a table that holds the text; by default the first of TEXT_COLUMNS that it has.
    """
    texts = (text_column,) if text_column is not None else TEXT_COLUMNS
    readers: dict[str, Callable[[Path], Captions]] = {
        ".json": _coco_captions,
        ".csv": partial(_csv_captions, texts=texts),
        ".jsonl": partial(_jsonl_captions, texts=texts),
        ".ndjson": partial(_jsonl_captions, texts=texts),
        ".parquet": partial(_parquet_captions, texts=texts),
    }
    if path.suffix not in readers:
        raise DataError(f"captions file {path}: give a .json (COCO), .csv, .jsonl or .parquet file")
    return readers[path.suffix](path)


def _coco_captions(path: Path) -> Captions:
    raw = read_json(path, "images", "annotations")
    images = ImageTable(raw["images"], Findings(path))
    for number, row in enumerate(raw["annotations"], 1):
        where = entry_name("annotation", number, row)
        if not isinstance(row, dict):
            detail = f"{where} is {type(row).__name__}, not an object"
            yield Rejected(canonical_id(None, where), "bad_annotation", detail, number)
            continue
        try:
            image = images.find(row.get("image_id"))
        except BadEntry as error:
            if error.reason != "unknown_image":
                yield Rejected(canonical_id(None, where), error.reason, f"{where}: {error}", number)
                continue
            image = None  # rejected later, as a row without an image
        yield Caption(image, row.get("caption"), row.get("id"), number, where)


def _csv_captions(path: Path, texts: Sequence[str]) -> Captions:
    with open(path, "rb") as stream:
        yield from _csv_rows(path, raw_lines(stream), texts)


def _csv_rows(path: Path, lines: Iterator[tuple[int, bytes]], texts: Sequence[str]) -> Captions:
    header = _header(path, next((line for _, line in lines if line.strip()), b""))
    columns = _columns(path, header, texts)
    places = {name: header.index(column) for name, column in columns.items()}
    image = next(places[name] for name in IMAGE_COLUMNS if name in places)
    for row in read_rows(lines, Shape(len(header), image)):
        if row.reason:
            yield Rejected(line_id(row.text), row.reason, row.detail, row.line)
            continue
        cells = {name: row.fields[place] for name, place in places.items()}
        yield _caption(cells, texts, row.line, f"line {row.line}", row.text)


def _header(path: Path, line: bytes) -> tuple[str, ...]:
    """The column names of a CSV file. Raises DataError."""
    if not line:
        raise DataError(f"captions file {path} is empty; correct it, or name another in the recipe")
    if b"\0" in line:
        raise DataError(f"captions file {path} is not UTF-8 (its header has zero bytes); convert it to UTF-8")
    try:
        return split_line(line)
    except csv.Error as error:
        raise DataError(
            f"captions file {path}: its header cannot be read ({error}); write one line of column names, with quotes "
            "closed, and end lines with LF or CRLF"
        ) from error


def _jsonl_captions(path: Path, texts: Sequence[str]) -> Captions:
    with open(path, "rb") as stream:
        for number, raw in raw_lines(stream):
            line, where = raw.strip(), f"line {number}"
            if not line:
                continue
            row = parse_object(line, number)
            if isinstance(row, Rejected):
                yield replace(row, detail=f"{where}: {row.detail}")
            else:
                yield _caption(row, texts, number, where, line)


def _parquet_captions(path: Path, texts: Sequence[str]) -> Captions:
    try:
        with pq.ParquetFile(path) as table:
            schema = table.schema_arrow
            columns = _columns(path, schema.names, texts)
            for name, column in columns.items():
                if name != "id" and not _holds_texts(schema.field(column).type):
                    raise DataError(
                        f"captions file {path}: column '{column}' holds {schema.field(column).type}, not texts; write "
                        "the images as files, with their paths here"
                    )
            number = 0
            for batch in table.iter_batches(BATCH_ROWS, columns=list(columns.values())):
                cells = {name: _values(batch.column(column)) for name, column in columns.items()}
                for values in zip(*cells.values(), strict=True):
                    number += 1
                    row, raw = dict(zip(cells, values, strict=True)), repr(values).encode("utf-8", "surrogatepass")
                    yield _caption(row, texts, number, f"row {number}", raw)
    except (pa.ArrowException, OSError, KeyError, UnicodeError) as error:
        raise DataError(f"captions file {path} cannot be read as Parquet: {error}; write it again") from error


def _holds_texts(kind: Any) -> bool:
    if pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null))


def _values(column: Any) -> list[Any]:
    """A column's values. Texts that are not UTF-8 get lone surrogates, which are rejected later."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        binary = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in binary]
    values: list[Any] = column.to_pylist()
    return values


def _columns(path: Path, header: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    """Name -> its spelling in the header, for a table's image and text, and its id if it has one. Raises DataError."""
    image, text = _first(path, header, IMAGE_COLUMNS), _first(path, header, texts)
    if image is None or text is None:
        separator = next((mark for mark in ";\t" if len(header) == 1 and mark in header[0]), None)
        remedy = "name the text's column with caption_column, or rename columns"
        if separator:
            remedy = f"it seems to be separated by {separator!r}: separate it by commas"
        raise DataError(
            f"captions file {path} needs a column {_either(IMAGE_COLUMNS[:2])} and a column {_either(texts)}; "
            f"it has {list(header)!r:.500}; {remedy}"
        )
    given = _first(path, header, ("id",))
    return dict([image, text] + ([given] if given is not None else []))


def _first(path: Path, header: Sequence[str], names: Sequence[str]) -> tuple[str, str] | None:
    """The first of `names` that a table has, and its spelling there: if need be in another case, or with spaces."""
    for name in names:
        same = [column for column in header if column == name]
        found = same or [column for column in header if column.strip().casefold() == name.casefold()]
        if len(found) > 1:
            raise DataError(f"captions file {path} has {len(found)} columns '{name}'; leave one of them")
        if found:
            return name, found[0]
    return None


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)


def _caption(row: dict[str, Any], texts: Sequence[str], line: int, where: str, raw: bytes) -> Caption | Rejected:
    """A table's row. Rejections: 'multi_image' (`file_names` with several), 'no_caption' (no such key in the row)."""
    image_key = next((key for key in IMAGE_COLUMNS if key in row), None)
    image = None if image_key is None else row[image_key]
    if image_key == "file_names":
        if image and not (isinstance(image, list) and len(image) == 1):
            return Rejected(line_id(raw), "multi_image", f"{where}: file_names is {image!r:.200}, not one image", line)
        image = image[0] if image else None
    text_key = next((key for key in texts if key in row), None)
    if text_key is None:
        return Rejected(
            line_id(raw), "no_caption", f"{where} has no {_either(texts)}; it has {sorted(row)!r:.500}", line
        )
    return Caption(image, row[text_key], row.get("id"), line, where)
