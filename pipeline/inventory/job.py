"""The job of an inventory: the values that its tasks share, and how they hand rows to each other.

    read   one task for a split of the raw data: records as columns, cut into pieces
    list   one task for an archive: where each member is
    look   one task for a bucket: finds and opens the images whose names fall into it, and numbers exact copies
    join   one task for a piece: its records with the facts about their images, as a shard of the artifact

Rows go from pieces to buckets and back. Every task writes one file with a part for each receiver, and a receiver reads
its part of each file. So memory depends on the size of a piece and of a bucket, not on the size of the data.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from pipeline.artifacts.shards import Shards
from pipeline.sources.frames import Frame
from pipeline.sources.images.references import folded
from pipeline.sources.table import DataSet

PIECE_ENTRIES = 65536
"""A piece ends with the batch that brings it to this many entries, or to PIECE_BYTES."""
PIECE_BYTES = 48 << 20
BUCKET_RECORDS = 65536
"""About this many records have their images looked up together."""
Numbers = npt.NDArray[np.int64]
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class Piece:
    """Some records that follow each other in the data: one shard of the artifact."""

    split: int
    index: int
    """Its number in the split."""
    number: int
    """Its number in the data set."""
    first_line: int
    """Lines (or rows) of the data before its split."""
    entries: int
    """Its records and rejected entries."""

    def file(self, table: str, kind: str = "arrow") -> str:
        """The path of a work file of this piece."""
        return f"{self.split:05d}/{self.index:05d}-{table}.{kind}"


@dataclass(frozen=True)
class InventoryJob:
    """The values that all tasks share. Sent to workers."""

    dataset: DataSet
    work: Shards
    """Work files: of splits, archives and buckets."""
    shards: Shards
    """The artifact's own files."""
    buckets: int
    threads: int
    """Threads that open images in one task."""
    knows_truth: bool
    unit: str
    """'line', 'record' or 'row'; '' if the details of rejects name their place themselves."""
    frame: Frame | None
    """The frame of annotated masks; None if it is not known."""
    wanted: frozenset[str] | None = None
    """With a limit: the file names (`file_key`) of the images that the records name. Others are not kept."""

    def read_part(self, file: str, number: int) -> pa.RecordBatch:
        """One part of a file that `write_parts` wrote."""
        with self.work.open(file) as stream, pa.ipc.open_file(stream) as reader:
            return reader.get_batch(number)

    def read_table(self, file: str) -> pa.Table:
        """All parts of a file."""
        with self.work.open(file) as stream, pa.ipc.open_file(stream) as reader:
            return reader.read_all()


def archive_file(number: int, chunk: int | None = None) -> str:
    """A work file with members of an archive."""
    return f"archive-{number:05d}{'' if chunk is None else f'-{chunk:05d}'}.arrow"


def bucket_file(number: int, table: str) -> str:
    """A work file of a bucket."""
    return f"bucket-{number:05d}-{table}.arrow"


def table_of(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Rows, as tuples in the order of the schema, as a table."""
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [() for _ in schema]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def write_parts(parts: Sequence[pa.Table], path: Path) -> None:
    """Write tables of one schema as the parts of one Arrow file: each is one record batch, also an empty one."""
    schema = parts[0].schema
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=_OPTIONS) as writer:
        for table in parts:
            batches = table.combine_chunks().to_batches()
            assert len(batches) <= 1
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema))


def deal(table: pa.Table, receivers: npt.NDArray[Any], count: int) -> list[pa.Table]:
    """The rows for each of `count` receivers, in order. `receivers` has the number of each row's receiver."""
    order = np.argsort(receivers, kind="stable")
    dealt = table.take(pa.array(order))
    ends = np.searchsorted(receivers[order], np.arange(count + 1))
    return [dealt.slice(ends[number], ends[number + 1] - ends[number]) for number in range(count)]


def buckets_of(names: Sequence[str], buckets: int) -> npt.NDArray[np.int64]:
    """The bucket of each image: by its file name, in a form that all spellings share. Repairs may change its folder."""
    return np.asarray([zlib.crc32(file_key(name).encode()) for name in names], dtype=np.int64) % buckets


def file_key(name: str) -> str:
    """The file name of an image's path, in a form that all its spellings share."""
    return folded(name[name.rfind("/") + 1 :])
