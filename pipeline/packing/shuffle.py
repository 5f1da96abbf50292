"""The seeded random order of a pack, for more records than fit into memory.

The order itself takes 16 bytes of memory per record. The records are then written to bucket files, each with the
records of some whole shards, and a bucket is read and sorted when its shards are made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import DataError
from pipeline.schemas import RECORDS
from pipeline.sources.records import order_key

BATCH = 4096  # records read at once
BUCKET_ROWS = 32768  # records of one bucket, at least
MAX_BUCKETS = 128  # files open at once
_RANKED = RECORDS.append(pa.field("rank", pa.int64()))


@dataclass(frozen=True)
class Layout:
    """The number of rows, and their division into shards and buckets."""

    rows: int
    shard_rows: int

    @property
    def shards(self) -> int:
        """Shards of the pack; the last may be short."""
        return max(1, -(-self.rows // self.shard_rows))

    def size(self, shard: int) -> int:
        """Records of one shard."""
        return max(0, min(self.shard_rows, self.rows - shard * self.shard_rows))

    @property
    def bucket_shards(self) -> int:
        """Shards of one bucket."""
        return max(-(-BUCKET_ROWS // self.shard_rows), -(-self.shards // MAX_BUCKETS))

    @property
    def buckets(self) -> int:
        """Buckets; the last may be short."""
        return -(-self.shards // self.bucket_shards)


def ranks(files: Sequence[Path], seed: int) -> npt.NDArray[np.int64]:
    """The place of each record (in file order) in the seeded random order: a permutation that depends on ids only."""
    keys = b"".join(
        order_key("pack", seed, sample_id)
        for path in files
        for batch in _batches(path, ["sample_id"])
        for sample_id in batch.column("sample_id").to_pylist()
    )
    places = np.frombuffer(keys, dtype=">u8").reshape(-1, 2)
    order = np.lexsort((places[:, 1], places[:, 0]))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(BATCH, columns=columns)


def deal(files: Sequence[Path], rank: npt.NDArray[np.int64], layout: Layout, folder: Path) -> list[Path]:
    """Write each record to the file of its bucket. Returns the files, in order.

    Raises DataError if the number of records is not that of `rank`.
    """
    # Bucket k gets the ranks [k * rows, (k + 1) * rows): exactly the records of its shards. So sorting one bucket by
    # rank gives the final order of its shards, and no bucket needs another one.
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"bucket-{number:03d}.arrow" for number in range(layout.buckets)]
    rows = layout.bucket_shards * layout.shard_rows
    writers = [pa.ipc.new_file(path, _RANKED) for path in paths]
    position = 0
    try:
        for path in files:
            for batch in _batches(path):
                here = rank[position : position + len(batch)]
                position += len(batch)
                if position > len(rank):
                    break  # more records than before: the error below
                table = pa.Table.from_batches([batch]).cast(RECORDS).append_column("rank", pa.array(here))
                bucket = here // rows
                for number in np.unique(bucket):
                    chosen = pa.array(np.flatnonzero(bucket == number))
                    writers[number].write_table(table.take(chosen).cast(_RANKED))
    finally:
        for writer in writers:
            writer.close()
    if position != len(rank):
        raise DataError(
            f"{files[0].parent} had {len(rank)} records at first and {position} or more in the second pass: files of "
            "an artifact were changed; 'agevlm verify' shows which"
        )
    return paths


def shards(paths: Sequence[Path], layout: Layout) -> Iterator[tuple[int, pa.Table]]:
    """Number and records (RECORDS) of each shard, in order; one bucket is in memory at a time."""
    number = 0
    for path in paths:
        with pa.OSFile(str(path)) as source:
            bucket = pa.ipc.open_file(source).read_all()
        bucket = bucket.sort_by("rank").drop_columns(["rank"])
        for start in range(0, max(1, len(bucket)), layout.shard_rows):
            yield number, bucket.slice(start, layout.shard_rows)
            number += 1
