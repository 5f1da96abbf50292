"""Reads Parquet files of records, such as those of an inventory, in pieces of bounded size."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused

BATCH_ROWS = 4096  # records in one piece, at most
BATCH_BYTES = 16 << 20  # a piece of long conversations has fewer records
READ_BUFFER = 1 << 20  # bytes; without it, Arrow reads a column of a whole row group at once


def record_batches(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The records of some files in order, with these columns."""
    for path in files:
        with pq.ParquetFile(path, buffer_size=READ_BUFFER) as file:
            yield from file.iter_batches(_rows(file.metadata), columns=list(columns))


def _rows(metadata: pq.FileMetaData) -> int:
    """Records of one piece, by the mean size of the file's records."""
    size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    return max(1, min(BATCH_ROWS, BATCH_BYTES * int(metadata.num_rows) // max(1, int(size))))
