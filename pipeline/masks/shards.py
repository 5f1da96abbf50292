"""Shards: the fixed lists of queries that are segmented, committed and published as one.

A shard is a pure function of the subset and the recipe. It is committed as one whole file with its checksum beside it,
so that a commit is there or it is not, and a rerun computes only what is missing.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.errors import DataError
from pipeline.masks.statistics import reason_name
from pipeline.schemas import EVIDENCE, QUERIES, part_name
from pipeline.whole import write_whole

METADATA = b"agevlm"  # key of a part's own facts in its Parquet schema
Fault = tuple[str, str, str]  # sample_id/turn/query_kind, the reason's name, the reason


def read_parts(folder: Path, schema: pa.Schema, table: str = "") -> pa.Table:
    """All parts of a table of an artifact, in order. Raises DataError if there is none or if columns differ."""
    files = sorted((folder / table).glob("part-*.parquet"))
    if not files:
        raise DataError(f"{folder / table} holds no part-*.parquet; run the step that makes it again")
    return pa.concat_tables([read_part(file, schema) for file in files])


def read_part(file: Path, schema: pa.Schema) -> pa.Table:
    """One part of a table. Raises DataError if it cannot be read whole or if its columns are not the schema's."""
    try:
        table = pq.read_table(file, page_checksum_verification=True)
        if table.schema.names != schema.names:
            raise DataError(f"{file} has the columns {table.schema.names}, not {schema.names}; run its step again")
        return table.cast(schema)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read ({error}); run the step that makes it again") from error


def cut(queries: pa.Table, shard_images: int) -> list[pa.Table]:
    """Cut the subset's queries (QUERIES) into shards of `shard_images` images with all their queries, in order.

    Rows of one image stand together (the subset sees to that). Without rows there is one empty shard. Raises
    DataError if an image's rows are apart: it would be encoded more than once.
    """
    if queries.schema.names != QUERIES.names:
        raise DataError(f"queries have the columns {queries.schema.names}, not {QUERIES.names}")
    keys = list(zip(queries["image_sha256"].to_pylist(), queries["image"].to_pylist(), strict=True))
    starts = [row for row, key in enumerate(keys) if row == 0 or key != keys[row - 1]]
    if len({keys[row] for row in starts}) != len(starts):
        raise DataError("the subset's queries of one image do not stand together; run subset again")
    borders = [*starts[::shard_images], len(keys)] if starts else [0, 0]
    return [queries.slice(first, last - first) for first, last in itertools.pairwise(borders)]


class Commits:
    """The shards that are done, as files of a folder that outlives a crash."""

    def __init__(self, folder: Path, shards: Sequence[pa.Table]) -> None:
        self.folder = folder
        self._rows = [len(shard) for shard in shards]
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, index: int) -> Path:
        """Where a shard is committed."""
        return self.folder / part_name(index, len(self._rows))

    def missing(self) -> list[int]:
        """The shards that are not committed, in order. A file that is not what was committed is no commit."""
        return [index for index in range(len(self._rows)) if not self._done(index)]

    def faults(self, index: int) -> list[Fault]:
        """The queries of a committed shard that the teachers failed at."""
        table = read_part(self.path(index), EVIDENCE)
        rows = table.filter(pc.equal(table["status"], "error")).select(["sample_id", "turn", "query_kind", "reason"])
        return [
            (f"{row['sample_id']}/{row['turn']}/{row['query_kind']}", reason_name(row["reason"]), row["reason"])
            for row in rows.to_pylist()
        ]

    def drop(self, index: int) -> None:
        """Take a commit back, so that the shard is computed again."""
        seal(self.path(index)).unlink(missing_ok=True)
        self.path(index).unlink(missing_ok=True)

    def _done(self, index: int) -> bool:
        try:
            content, sealed = self.path(index).read_bytes(), seal(self.path(index)).read_text(encoding="ascii")
            if hashlib.sha256(content).hexdigest() != sealed:
                return False
            return bool(pq.read_metadata(pa.BufferReader(content)).num_rows == self._rows[index])
        except (OSError, ValueError, pa.ArrowException):
            return False


def seal(path: Path) -> Path:
    """The file with the checksum of a commit: Parquet checks its pages, but not its footer."""
    return path.with_name(f"{path.name}.sha256")


def commit(path: Path, table: pa.Table, facts: dict[str, Any]) -> None:
    """Write a shard's evidence (EVIDENCE) whole, or not at all. The bytes depend on the arguments only."""
    if table.schema != EVIDENCE:
        raise ValueError(f"evidence has the schema {table.schema}")
    schema = EVIDENCE.with_metadata({METADATA: json.dumps(facts, sort_keys=True).encode("ascii")})
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(schema), sink, compression="zstd", write_page_checksum=True)
    seal_commit(path, sink.getvalue().to_pybytes())


def seal_commit(path: Path, content: bytes) -> None:
    """Write a part's bytes, and then what makes them a commit."""
    with write_whole(path) as stream:
        stream.write(content)
    with write_whole(seal(path)) as stream:
        stream.write(hashlib.sha256(content).hexdigest().encode("ascii"))


def facts_of(path: Path) -> dict[str, Any]:
    """What `commit` was told of a part. Empty if nothing. Raises DataError if the part cannot be read."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        facts: dict[str, Any] = json.loads(metadata.get(METADATA, b"{}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}); run the step that makes it again") from error
    return facts
