"""Rows of a pack by address: row groups are read when needed, and the latest are kept in memory.

Workers read the shards themselves, in the order of `order.py`, because a stage that is run again must see the same
samples in the same order. A shard is opened when it is needed and closed again: at most OPEN_SHARDS are open.

Rot is found by the checksum of each Parquet page that is read, and once more by each image's own SHA-256.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import DataError
from pipeline.artifacts.spec import short
from pipeline.training.data.index import PackIndex, group_ends
from pipeline.training.data.order import Address
from pipeline.training.data.pack_files import DAMAGE, REMEDY

OPEN_SHARDS = 8
"""Shards that are open at once."""
CACHE_BYTES = 1 << 30
"""Memory for row groups, in each worker. The rows of a window of batches are spread over a few shards: with room for
those, each row group is read once per epoch. The group that is read last is kept whatever its size."""
LISTS = ("input_ids", "target", "token_starts", "token_ends")
IMAGES = ("sample_id", "image", "image_sha256")
COLUMNS = (*IMAGES, *LISTS, "turns")
"""The columns of a row; its length and its image's size are in the index."""


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
        columns = {name: table.column(name).combine_chunks() for name in COLUMNS}
        self._columns = {name: c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for name, c in columns.items()}
        self._offsets = {name: self._columns[name].offsets.to_numpy() for name in LISTS}
        self._values = {name: self._columns[name].values.to_numpy(zero_copy_only=False) for name in LISTS}
        self.nbytes: int = table.nbytes

    def image_sha256(self, index: int) -> str | None:
        """The image's checksum as the pack states it; None for text only."""
        stated: str | None = self._columns["image_sha256"][index].as_py()
        return stated

    def row(self, index: int, length: int) -> PackRow:
        """A row of the group, which must have so many tokens. Raises DataError if its columns do not agree."""
        lists: dict[str, Any] = {}
        for name in LISTS:
            start, end = self._offsets[name][index : index + 2]
            lists[name] = self._values[name][start:end]
        sample_id = self._columns["sample_id"][index].as_py()
        if {len(values) for values in lists.values()} != {length}:
            raise DataError(f"sample {sample_id}: its token columns have not {length} values each")
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
    """Reads rows of a pack. Threads may share it: they take turns.

    Args:
        index: the pack's index, which knows its files.
        open_shards: shards that are open at once, at least 1.
        cache_bytes: memory for row groups; the least recently used are dropped.
    """

    def __init__(self, index: PackIndex, open_shards: int = OPEN_SHARDS, cache_bytes: int = CACHE_BYTES) -> None:
        self.index, self._most_open, self._limit = index, open_shards, cache_bytes
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], _Group] = OrderedDict()
        self._cached = 0
        self._lock = threading.Lock()

    def row(self, address: Address) -> PackRow:
        """One row. Raises IndexError if the pack has no such row, DataError if its bytes are damaged."""
        ends = self.index.group_ends(address.shard)
        if not 0 <= address.row < self.index.shard_rows(address.shard):
            raise IndexError(f"{self.index.files.describe(address.shard)} has no row {address.row}")
        number = int(np.searchsorted(ends, address.row, side="right"))
        start = int(ends[number - 1]) if number else 0
        with self._lock:
            group = self._group(address.shard, number, start, int(ends[number]))
        place = address.row - start
        try:
            row = group.row(place, int(self.index.lengths(address.shard)[address.row]))
        except (DataError, *DAMAGE) as error:
            raise self._damaged(address.shard, f"row {address.row}", error) from error
        self._check_image(address, row, group.image_sha256(place))
        return row

    def rows(self, addresses: Sequence[Address]) -> list[PackRow]:
        """Several rows, in the order of their addresses. Raises as `row`."""
        found = {address: self.row(address) for address in sorted(set(addresses))}  # one row group after another
        return [found[address] for address in addresses]

    def close(self) -> None:
        """Close all shards; they are opened again when needed."""
        with self._lock:
            while self._files:
                self._files.popitem()[1].close(force=True)

    def _check_image(self, address: Address, row: PackRow, stated: str | None) -> None:
        """Raise DataError unless the image is the one that was packed."""
        size = int(self.index.image_bytes(address.shard)[address.row])
        if row.image is None and not size and stated is None:
            return
        found = None if row.image is None else hashlib.sha256(row.image).hexdigest()
        if found is None or found != stated or len(row.image or b"") != size:
            raise DataError(
                f"{self.index.files.describe(address.shard)}: row {address.row} (sample {row.sample_id}): "
                f"{_difference(found, stated)}; {REMEDY}"
            )

    def _group(self, shard: int, group: int, start: int, end: int) -> _Group:
        """A row group from memory, else from the file."""
        key = (shard, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        try:
            table = self._open(shard).read_row_group(group, columns=list(COLUMNS))
            if len(table) != end - start:
                raise pa.ArrowInvalid(f"row group {group} has {len(table)} rows and not {end - start}")
            read = _Group(table)
        except DAMAGE as error:
            rows = f"row {start}" if end == start + 1 else f"rows {start} to {end - 1}"
            raise self._damaged(shard, self._bad_rows(shard, group, start) or rows, error) from error
        self._groups[key] = read
        self._cached += read.nbytes
        while self._cached > self._limit and len(self._groups) > 1:
            self._cached -= self._groups.popitem(last=False)[1].nbytes
        return read

    def _open(self, shard: int) -> pq.ParquetFile:
        """An open shard; the least recently used one is closed for it. Raises one of DAMAGE."""
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        while len(self._files) >= self._most_open:
            self._files.popitem(last=False)[1].close(force=True)
        file = self.index.files.open(shard)
        self._files[shard] = file
        if not np.array_equal(group_ends(file), self.index.group_ends(shard)):
            raise pa.ArrowInvalid("its footer has other row groups than the pack's index")
        return file

    def _damaged(self, shard: int, rows: str, error: Exception) -> DataError:
        """The error of rows that cannot be read. The file is read as a whole, to compare it with its manifest."""
        opened = self._files.pop(shard, None)
        if opened is not None:
            opened.close(force=True)
        files = self.index.files
        return DataError(f"{files.describe(shard)}: {rows}: {files.state(shard, error)}; {REMEDY}")

    def _bad_rows(self, shard: int, group: int, start: int) -> str:
        """The rows of a group whose images are not those that were packed; '' if no row can be told apart.

        A page that fails its checksum has many rows. Read without that check, each image has a checksum of its own.
        """
        try:
            file = self.index.files.open(shard, verify=False)
            try:
                table = file.read_row_group(group, columns=list(IMAGES))
            finally:
                file.close(force=True)
            bad = [
                f"row {start + place} (sample {row['sample_id']}): {_difference(found, row['image_sha256'])}"
                for place, row in enumerate(table.to_pylist())
                if row["image"] is not None
                and (found := hashlib.sha256(row["image"]).hexdigest()) != row["image_sha256"]
            ]
        except DAMAGE:
            return ""  # the damage is not in an image alone: the caller names the rows of the group
        return ", ".join(bad)


def _difference(found: str | None, stated: str | None) -> str:
    return f"its image has sha256 {short(found or 'none')} and not {short(stated or 'none')}"
