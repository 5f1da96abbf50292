"""Bucket files: the ids of all records on disk, divided by a key, so that one part of them is in memory at a time."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from pipeline.overlap.digests import leading

BUCKET_ROWS = 1 << 16
"""Records of one bucket, of all data sets together; more if there are MAX_BUCKETS of them."""
MAX_BUCKETS = 128
"""Two files of each are open at once, for two kinds of key."""


def bucket_count(records: int) -> int:
    """Number of buckets for this many records. It depends on nothing else, and the parts of the result follow it."""
    return min(MAX_BUCKETS, max(1, -(-records // BUCKET_ROWS)))


class Buckets:
    """Files of rows (key, sample_id), one per bucket. Equal keys are in the bucket of the same number.

    Use it as a context manager while writing.

    Args:
        folder: a local folder; it is created.
        kind: Arrow type of the keys.
        count: number of buckets.
    """

    def __init__(self, folder: Path, kind: pa.DataType, count: int) -> None:
        folder.mkdir(parents=True)
        self._paths = [folder / f"{number:05d}.arrow" for number in range(count)]
        self._schema = pa.schema([("key", kind), ("sample_id", pa.string())])
        self._stack = ExitStack()
        self._writers: list[pa.RecordBatchStreamWriter] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # closes the files that are open if another one cannot be opened
            self._writers = [
                stack.enter_context(pa.ipc.new_stream(stack.enter_context(pa.OSFile(str(path), "wb")), self._schema))
                for path in self._paths
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def write(self, keys: pa.FixedSizeBinaryArray, sample_ids: pa.StringArray) -> None:
        """Put rows into their buckets."""
        count = len(self._paths)
        numbers = (leading(keys).astype(np.uint64) * np.uint64(count)) >> np.uint64(32)
        order = np.argsort(numbers, kind="stable")
        rows = pa.record_batch([keys, sample_ids], schema=self._schema).take(pa.array(order))
        ends = np.searchsorted(numbers[order], np.arange(1, count + 1)).tolist()
        start = 0
        for writer, end in zip(self._writers, ends, strict=True):
            if end > start:
                writer.write_batch(rows.slice(start, end - start))
            start = end

    def read(self, number: int) -> pa.Table:
        """The rows of one bucket, in the order in which they were written."""
        with pa.OSFile(str(self._paths[number])) as source, pa.ipc.open_stream(source) as reader:
            return reader.read_all()
