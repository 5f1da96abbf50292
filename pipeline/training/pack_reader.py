"""Rows of a pack by address: row groups are read when needed, and the latest are kept in memory.

Workers read the shards themselves, in the order of `order.py`, because a stage that is run again must see the same
samples in the same order.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import DataError
from pipeline.schemas import PACK
from pipeline.training.order import Address

MIN_CACHED_GROUPS = 4  # row groups; the number of groups of a shard is added, so that a permuted shard is read once
LISTS = ("input_ids", "target", "token_starts", "token_ends")


@dataclass(frozen=True)
class Span:
    """The spans of a turn's question and answer in the rendered conversation, in characters."""

    turn: int
    question_start: int
    question_end: int
    answer_start: int
    answer_end: int


@dataclass(frozen=True)
class PackRow:
    """One sample. Arrays have one element per token."""

    sample_id: str
    image: bytes | None
    input_ids: npt.NDArray[np.int64]
    target: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    spans: tuple[Span, ...]


class _Group:
    """One row group in memory. A row is sliced out of Arrow's buffers, so that the other rows are not converted."""

    def __init__(self, table: pa.Table) -> None:
        columns = {name: table.column(name).combine_chunks() for name in PACK.names}
        self._columns = {name: c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for name, c in columns.items()}
        self._offsets = {name: self._columns[name].offsets.to_numpy() for name in LISTS}
        self._values = {name: self._columns[name].values.to_numpy(zero_copy_only=False) for name in LISTS}

    def row(self, index: int) -> PackRow:
        lists: dict[str, Any] = {}
        for name in LISTS:
            start, end = self._offsets[name][index : index + 2]
            lists[name] = self._values[name][start:end]
        sample_id = self._columns["sample_id"][index].as_py()
        if len({len(values) for values in lists.values()}) != 1:
            raise DataError(f"pack row {sample_id}: its token columns differ in length; make the pack again")
        return PackRow(
            sample_id=sample_id,
            image=self._columns["image"][index].as_py(),
            input_ids=lists["input_ids"].astype(np.int64),
            target=lists["target"].astype(bool),
            starts=lists["token_starts"].astype(np.int64),
            ends=lists["token_ends"].astype(np.int64),
            spans=tuple(Span(**span) for span in self._columns["turns"][index].as_py()),
        )


class PackReader:
    """A pack's shards, open for reading. Used by one thread at a time.

    Raises DataError for a folder without shards, or without the columns of a pack.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("part-*.parquet"))
        if not self.paths:
            raise DataError(f"pack {folder} holds no part-*.parquet; run the step 'pack' again")
        self._files = [pq.ParquetFile(path, memory_map=True) for path in self.paths]
        for path, file in zip(self.paths, self._files, strict=True):
            missing = sorted(set(PACK.names) - set(file.schema_arrow.names))
            if missing:
                raise DataError(f"pack shard {path.name} has no column {missing[0]}; run the step 'pack' again")
        self._ends = [
            np.cumsum([f.metadata.row_group(g).num_rows for g in range(f.metadata.num_row_groups)], dtype=np.int64)
            for f in self._files
        ]
        self._groups: OrderedDict[tuple[int, int], _Group] = OrderedDict()
        self._capacity = MIN_CACHED_GROUPS + max(f.metadata.num_row_groups for f in self._files)

    @property
    def rows(self) -> int:
        """Rows of the whole pack."""
        return sum(self.shard_rows(shard) for shard in range(len(self._files)))

    def shard_rows(self, shard: int) -> int:
        """Rows of one shard."""
        return int(self._files[shard].metadata.num_rows)

    def row(self, address: Address) -> PackRow:
        """One row. Raises IndexError if the pack has no such row."""
        ends = self._ends[address.shard]
        if not 0 <= address.row < self.shard_rows(address.shard):
            raise IndexError(f"{self.paths[address.shard].name} has no row {address.row}")
        group = int(np.searchsorted(ends, address.row, side="right"))
        start = int(ends[group - 1]) if group else 0
        return self._group(address.shard, group).row(address.row - start)

    def _group(self, shard: int, group: int) -> _Group:
        """A row group from memory, else from the file; the least recently used ones are dropped.

        An epoch visits the rows of a shard in a random order, but finishes a shard before the next one begins. With
        room for all groups of a shard, each group is read once per epoch.
        """
        key = (shard, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        table = self._files[shard].read_row_group(group, columns=PACK.names)
        while len(self._groups) >= self._capacity:
            self._groups.popitem(last=False)
        self._groups[key] = _Group(table)
        return self._groups[key]

    def with_image(self, shard: int) -> npt.NDArray[np.bool_]:
        """(rows,) True for rows of a shard that have an image. No image is read."""
        return self._column(shard, "image_bytes") > 0

    def lengths(self, shard: int) -> npt.NDArray[np.int32]:
        """(rows,) tokens of each row of a shard. No tokens are read."""
        return self._column(shard, "length")

    def _column(self, shard: int, name: str) -> npt.NDArray[np.int32]:
        """(rows,) a column of numbers. Raises DataError if a number is missing."""
        column = self._files[shard].read(columns=[name]).column(name)
        if column.null_count:
            raise DataError(f"pack shard {self.paths[shard].name}: {name} has gaps; run the step 'pack' again")
        return np.asarray(column.to_numpy(), dtype=np.int32)

    def sample_ids(self, shard: int) -> list[str]:
        """The sample ids of a shard, in its order."""
        ids: list[str] = self._files[shard].read(columns=["sample_id"]).column("sample_id").to_pylist()
        return ids
