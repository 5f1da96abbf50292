"""Parts of mask tables: reading them from an artifact, and cutting the subset's queries into the parts to segment.

A part is a fixed list of images with all their queries, a pure function of the subset and the recipe. It is segmented,
committed and published as one file.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import DataError
from pipeline.artifacts.staging import Reject
from pipeline.masks.statistics import reason_name
from pipeline.schemas import EVIDENCE, QUERIES, part_name

METADATA = b"agevlm"  # key of a part's own facts in its Parquet schema


def read_parts(folder: Path, schema: pa.Schema, table: str = "") -> pa.Table:
    """All parts of a table of an artifact, in order. Raises DataError if there is none or if columns differ."""
    files = sorted((folder / table).glob("part-*.parquet"))
    if not files:
        raise DataError(f"{folder / table} holds no part-*.parquet; run the step that makes it again")
    return pa.concat_tables([read_part(file, schema) for file in files])


def read_part(file: Path | str, schema: pa.Schema, fs: Any = None) -> pa.Table:
    """One part of a table. Raises DataError if it is damaged or if its columns are not the schema's.

    fs: the fsspec file system of the file; by default the local one.
    """
    try:
        table = pq.read_table(file, page_checksum_verification=True, filesystem=fs)
        if table.schema.names != schema.names:
            raise DataError(f"{file} has the columns {table.schema.names}, not {schema.names}; run its step again")
        return table.cast(schema)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read ({error}); run the step that makes it again") from error


def cut(queries: pa.Table, shard_images: int) -> list[pa.Table]:
    """Cut the subset's queries (QUERIES) into shards of `shard_images` images with all their queries, in order.

    Rows of one image are adjacent (the subset sorts them so). Without rows there is one empty shard. Raises DataError
    if the rows of an image are not adjacent, because the teachers would encode it more than once.
    """
    if queries.schema.names != QUERIES.names:
        raise DataError(f"queries have the columns {queries.schema.names}, not {QUERIES.names}")
    keys = list(zip(queries["image_sha256"].to_pylist(), queries["image"].to_pylist(), strict=True))
    starts = [row for row, key in enumerate(keys) if row == 0 or key != keys[row - 1]]
    if len({keys[row] for row in starts}) != len(starts):
        raise DataError("the subset's queries of one image are not adjacent rows; run subset again")
    borders = [*starts[::shard_images], len(keys)] if starts else [0, 0]
    return [queries.slice(first, last - first) for first, last in itertools.pairwise(borders)]


def shard_name(index: int, count: int) -> str:
    """Name of a shard's commit: its file's name without the suffix."""
    return part_name(index, count).removesuffix(".parquet")


def evidence_bytes(table: pa.Table, facts: dict[str, Any]) -> bytes:
    """A shard's evidence (EVIDENCE) as a Parquet file with facts in its metadata. Depends on the arguments only."""
    if table.schema != EVIDENCE:
        raise ValueError(f"evidence has the schema {table.schema}")
    schema = EVIDENCE.with_metadata({METADATA: json.dumps(facts, sort_keys=True).encode("ascii")})
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(schema), sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue().to_pybytes())


def errors_of(table: pa.Table) -> list[Reject]:
    """The queries of a shard (EVIDENCE) with an error: sample_id/turn/query_kind, reason, detail."""
    rows = table.select(["sample_id", "turn", "query_kind", "status", "reason"]).to_pylist()
    return [
        (f"{row['sample_id']}/{row['turn']}/{row['query_kind']}", reason_name(row["reason"]), row["reason"])
        for row in rows
        if row["status"] == "error"
    ]


def facts_of(path: Path) -> dict[str, Any]:
    """The facts in a part's metadata; empty if there are none. Raises DataError if the part cannot be read."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        facts: dict[str, Any] = json.loads(metadata.get(METADATA, b"{}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}); run the step that makes it again") from error
    return facts
