"""Sorting more rows than fit into memory: rows are dealt into bucket files by their sort keys, then each is sorted.

The sort keys are bytes, compared as bytes. The first 8 bits of a key choose one of 256 bucket files, so the buckets
follow each other in the order of the keys. Keys begin with a hash (`order_keys`), which makes the buckets equally
large. A bucket that is still too large is dealt once more when its turn comes, by the first byte in which its own keys
differ. So memory holds one bucket (BUCKET_BYTES) and its sorted copy, whatever the number of rows, and at most 256
files are open for each level.

1 TB of rows takes two levels: 256 files of 4 GB, and each of them, when its turn comes, 256 files of 16 MB. Every row
is written and read twice, one after the other in large pieces, and the folder needs room for 1 TB and one bucket of
4 GB, because a file is removed as soon as it was read. Up to BUCKET_BYTES of rows stay in memory and touch no disk.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused

BUCKET_BYTES = 32 << 20  # rows that are sorted in memory at once, and rows that wait to be written to bucket files
READ_BYTES = 4 << 20  # one piece of a bucket that is dealt once more
KEY = "sort_key"
KEY_TYPE = pa.binary()


def order_keys(purpose: str, seed: int, names: pa.Array) -> npt.NDArray[np.void]:
    """Sort keys of many names (`pipeline.sources.records.order_key`): (names,) items of 16 bytes."""
    start, sha256 = f"{purpose}:{seed}:".encode(), hashlib.sha256
    names = names.cast(pa.large_binary() if pa.types.is_large_string(names.type) else pa.binary())
    digests = b"".join([sha256(start + name).digest() for name in names.to_pylist()])
    return np.frombuffer(digests, dtype="V32").view("V16").reshape(-1, 2)[:, 0]


def halves(keys: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """(keys, 2) the two halves of 16-byte keys as numbers; the pairs have the same order as the keys."""
    return np.frombuffer(np.ascontiguousarray(keys).tobytes(), dtype=">u8").reshape(-1, 2).astype(np.uint64)


def key_column(keys: npt.NDArray[np.void]) -> pa.Array:
    """Keys of 16 bytes as a column for `Sorter.add`."""
    content = pa.py_buffer(np.ascontiguousarray(keys).tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(keys), [None, content]).cast(KEY_TYPE)


class Sorter:
    """Sorts rows by a key that is given with each of them. First all rows are added, then they are read once.

    Args:
        schema: the rows' schema.
        folder: local folder for the bucket files, which are removed as they are read.
    """

    def __init__(self, schema: pa.Schema, folder: Path) -> None:
        self._schema = schema.append(pa.field(KEY, KEY_TYPE))
        self._waiting: list[pa.Table] = []
        self._bytes = 0
        self._buckets: _Buckets | None = None
        self._folder = folder
        self.rows = 0
        """Rows that were added."""

    def add(self, rows: pa.Table, keys: pa.Array) -> None:
        """Add rows of the schema, in any order, and one key of bytes for each."""
        keyed = rows.append_column(KEY, keys).cast(self._schema)
        self.rows += len(rows)
        self._bytes += keyed.nbytes
        self._waiting.append(keyed)
        if self._bytes >= BUCKET_BYTES:
            self._buckets = self._buckets or _Buckets(self._schema, self._folder)
            self._buckets.deal(pa.concat_tables(self._waiting), at=0)
            self._waiting, self._bytes = [], 0

    def read(self) -> Iterator[pa.Table]:
        """The rows in the order of their keys, in tables of at most about BUCKET_BYTES."""
        if self._buckets is None:
            rows = pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()
            self._waiting = []
            yield rows.sort_by(KEY).drop_columns([KEY])
            return
        if self._waiting:
            self._buckets.deal(pa.concat_tables(self._waiting), at=0)
            self._waiting = []
        for rows in self._buckets.read():
            yield rows.sort_by(KEY).drop_columns([KEY])


class _Buckets:
    """256 files of rows, by one byte of their keys."""

    def __init__(self, schema: pa.Schema, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._schema = schema
        # A folder of its own, because another run of the same step may work on the same machine.
        self._folder = Path(tempfile.mkdtemp(prefix="buckets-", dir=folder))
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def deal(self, rows: pa.Table, at: int) -> None:
        """Write rows to the files of the byte number `at` of their keys. A key without that byte comes first."""
        numbers = _bytes_at(rows.column(KEY), at)
        order = np.argsort(numbers, kind="stable")
        rows, numbers = rows.take(pa.array(order)), numbers[order]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
            number = int(numbers[start])
            if number not in self._writers:
                self._writers[number] = pa.ipc.new_stream(self._path(number), self._schema)
            self._writers[number].write_table(rows.slice(start, end - start))

    def read(self) -> Iterator[pa.Table]:
        """The rows of the buckets, in the order of the byte, in tables that fit into memory; each once."""
        for writer in self._writers.values():
            writer.close()
        for number in sorted(self._writers):
            path = self._path(number)
            if path.stat().st_size <= BUCKET_BYTES:
                rows = pa.concat_tables(_batches(path)).combine_chunks()
                path.unlink()
                yield rows
            else:
                yield from self._smaller(path)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _smaller(self, path: Path) -> Iterator[pa.Table]:
        """The rows of a large file, dealt once more by the first byte in which their keys differ; removes the file."""
        least, most = b"", b""
        for number, rows in enumerate(_batches(path)):
            found = pc.min_max(rows.column(KEY))
            low, high = found["min"].as_py(), found["max"].as_py()
            least, most = (low, high) if number == 0 else (min(least, low), max(most, high))
        if least == most:  # rows of one key are in order as they are
            yield from _batches(path)
        else:
            differ = next((n for n, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
            buckets = _Buckets(self._schema, self._folder)
            for rows in _batches(path):
                buckets.deal(rows, differ)
            yield from buckets.read()
        path.unlink()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:03d}.arrow"


def _bytes_at(keys: pa.ChunkedArray, at: int) -> npt.NDArray[np.int64]:
    """(keys,) byte number `at` of each key plus 1, or 0 where the key is shorter."""
    column = keys.combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    bounds = np.frombuffer(column.buffers()[1], dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    content = np.frombuffer(column.buffers()[2] or b"", dtype=np.uint8)
    places, ends = bounds[:-1].astype(np.int64) + at, bounds[1:]
    found = np.zeros(len(column), dtype=np.int64)
    long = places < ends
    found[long] = content[places[long]].astype(np.int64) + 1
    return found


def _batches(path: Path) -> Iterator[pa.Table]:
    """The rows of a file in pieces of about READ_BYTES. It is not mapped, because mapped pages count as memory."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        yield from joined((pa.Table.from_batches([batch]) for batch in stream), READ_BYTES)


def joined(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in fewer tables: small ones are put together until they have `size` bytes."""
    waiting: list[pa.Table] = []
    total = 0
    for table in tables:
        waiting.append(table)
        total += table.nbytes
        if total >= size:
            yield pa.concat_tables(waiting)
            waiting, total = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def in_pieces(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows, in order, in tables of `rows` rows; the last may be short. No rows give no table."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        start = 0
        while count + len(table) - start >= rows:
            end = start + rows - count
            yield _whole([*waiting, table.slice(start, end - start)])
            waiting, count, start = [], 0, end
        if start < len(table):
            waiting.append(table.slice(start))
            count += len(table) - start
    if waiting:
        yield _whole(waiting)


def _whole(tables: Sequence[pa.Table]) -> pa.Table:
    """Some slices as one table with bytes of its own: a slice keeps the table alive that it was cut from.

    Its chunks stay apart, because together they may have more bytes than one Arrow array can hold (2 GB).
    """
    return pa.concat_tables([table.take(pa.array(np.arange(len(table)))) for table in tables])
