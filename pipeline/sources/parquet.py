"""Parquet files with images inside, as Hugging Face data sets are published.

A row is a record; its image is named 'FILE#ROW'. The images are copied into the inventory, in small row groups: row
groups of the size that is usual for such files would have to be read whole for each image of a training shard.
"""

import posixpath
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.errors import ConfigError, DataError
from pipeline.sources.cambrian import read_record
from pipeline.sources.config import ParquetSource
from pipeline.sources.conversation import IMAGE_TOKEN, INSTRUCTION
from pipeline.sources.files import is_file, open_file, remote
from pipeline.sources.images.archives import Archive
from pipeline.sources.interface import Split
from pipeline.sources.records import Entry
from pipeline.sources.rows import Rows, batches

CONVERSATIONS = ("conversations", "messages")
CAPTIONS = ("caption", "text")
BATCH = 256


class ParquetReader:
    """Reads the records of Parquet files, one file a split."""

    knows_truth = False
    unit = "row"

    def __init__(self, source: ParquetSource) -> None:
        """Open the files. Raises DataError or ConfigError if they are missing, or lack a column."""
        self._source, self._files = source, parquet_files(source.files)
        if not self._files:
            raise DataError(f"{source.files} holds no .parquet file; correct its location in the recipe")
        columns = self._columns
        if source.image not in columns:
            raise ConfigError(f"{self._files[0][1]} has no column '{source.image}' for 'image'; it has {columns}")
        self._texts = self._choose(columns)

    @property
    def findings(self) -> tuple[dict[str, dict[str, int]], list[str]]:
        """None: every fault is a row's."""
        return {}, []

    def _choose(self, columns: list[str]) -> tuple[str, bool]:
        """The column with the texts, and True if it holds conversations."""
        given = self._source.conversations or self._source.caption
        if given is not None and given not in columns:
            raise ConfigError(f"{self._files[0][1]} has no column '{given}'; it has {columns}")
        if given is not None:
            return given, self._source.conversations is not None
        for names, conversations in ((CONVERSATIONS, True), (CAPTIONS, False)):
            for name in names:
                if name in columns:
                    return name, conversations
        raise ConfigError(
            f"{self._files[0][1]} has none of the columns {', '.join(CONVERSATIONS + CAPTIONS)}; name one as "
            f"'conversations' or 'caption' in the source; it has {columns}"
        )

    @cached_property
    def _columns(self) -> list[str]:
        return list(_schema(self._files[0][1]).names)

    @cached_property
    def size(self) -> int:
        """The number of rows."""
        return sum(_rows(path) for _, path in self._files)

    def splits(self) -> Sequence[Split]:
        """One for each file."""
        return [Split(number, file=number) for number in range(len(self._files))]

    def read(self, split: Split) -> Iterator[Rows]:
        """The rows of a file."""
        yield from batches(self._entries(*self._files[split.file]))

    def _entries(self, name: str, path: str) -> Iterator[Entry]:
        texts, conversations = self._texts
        key = self._source.id or "id"
        schema = _schema(path)
        wanted = [column for column in (texts, key, "source") if column in schema.names]
        if texts not in wanted or self._source.image not in schema.names:
            raise DataError(f"{path} lacks the column '{texts}' or '{self._source.image}' that other files have")
        columns = [*wanted, *_presence(path, schema, self._source.image, ("bytes", "path"))]
        number = 0
        for batch in _batches(path, BATCH, columns):
            for row in batch.to_pylist():
                image = f"{name}#{number}" if _has_image(row[self._source.image]) else None
                number += 1
                raw = {"id": row.get(key), "image": image, "source": row.get("source")}
                raw["conversations"] = row[texts] if conversations else _caption(row[texts], image)
                yield read_record(raw, number)


def _caption(text: Any, image: str | None) -> list[dict[str, Any]]:
    question = f"{IMAGE_TOKEN}\n{INSTRUCTION}" if image else INSTRUCTION
    return [{"from": "human", "value": question}, {"from": "gpt", "value": text}]


def _presence(path: str, schema: pa.Schema, image: str, fields: tuple[str, ...]) -> list[str]:
    """The columns with the images' bytes, or also with their paths. Raises ConfigError for another type of column."""
    kind = schema.field(image).type
    if pa.types.is_struct(kind):
        there = {field.name: field.type for field in kind}
        if "bytes" in there and _is_bytes(there["bytes"]):
            return [f"{image}.{field}" for field in fields if field in there]
    elif _is_bytes(kind):
        return [image]
    raise ConfigError(
        f"{path}: the column '{image}' is {kind}, not bytes or a struct with 'bytes'; name another column as 'image', "
        "or write the images' bytes into the file"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind))


def _has_image(value: Any) -> bool:
    """True also for a path without bytes: then the image is missing, and the record is no text-only one."""
    return bool(value.get("bytes") or value.get("path")) if isinstance(value, dict) else bool(value)


def _batches(path: str, rows: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of some columns of a Parquet file. Raises DataError where the file is damaged."""
    try:
        with open_file(path) as stream, pq.ParquetFile(stream) as file:
            yield from file.iter_batches(rows, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no Parquet file, or is damaged ({error}); download it again") from error


def parquet_archives(source: ParquetSource) -> list[Archive]:
    """The files as archives of images."""
    return [Archive(name, (path,), source.image) for name, path in parquet_files(source.files)]


def parquet_images(archive: Archive, image: str) -> Iterator[tuple[str, bytes]]:
    """The images of a Parquet file with the names that its records use."""
    path = archive.parts[0]
    number = 0
    for batch in _batches(path, 64, _presence(path, _schema(path), image, ("bytes",))):
        for value in batch.column(0).to_pylist():
            data = value.get("bytes") if isinstance(value, dict) else value
            if data:
                yield f"{archive.name}#{number}", bytes(data)
            number += 1


def parquet_files(location: str) -> list[tuple[str, str]]:
    """Name and path of each Parquet file: of the file itself, or of those below a folder, by name. Raises DataError."""
    if is_file(location):
        return [(posixpath.basename(location), location)]
    found = remote(location)
    if found is not None:
        fs, root = found
        scheme = location.split("://")[0]
        paths = sorted(str(path) for path in fs.find(root) if path.endswith(".parquet"))
        return [(path[len(root) :].lstrip("/"), f"{scheme}://{path}") for path in paths]
    root_folder = Path(location)
    if not root_folder.is_dir():
        raise DataError(f"{location} does not exist; correct its location in the recipe")
    return [(path.relative_to(root_folder).as_posix(), str(path)) for path in sorted(root_folder.rglob("*.parquet"))]


def _schema(path: str) -> pa.Schema:
    try:
        with open_file(path) as stream:
            return pq.read_schema(stream)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no Parquet file ({error}); download it again") from error


def _rows(path: str) -> int:
    try:
        with open_file(path) as stream:
            return int(pq.read_metadata(stream).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no Parquet file ({error}); download it again") from error
