"""Inventories that are written without raw data, small or of millions of records."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.schemas import RECORDS, part_name

SHARD_ROWS = 8192


def publish_inventory(store: ArtifactStore, shards: Iterable[pa.Table], count: int = 1) -> Artifact:
    """Publish tables of records as the inventory 'pretrain'. `count`: number of tables."""
    spec = StepSpec(step="inventory", revision=1, params={"made": "for a test"}, inputs={})
    staging = Staging(store, ArtifactRef(kind="inventory", name="pretrain", id=spec.id()), spec, 0, {})
    rows = 0
    for number, table in enumerate(shards):
        pq.write_table(table.cast(RECORDS), staging.path(part_name(number, count, "records")), compression="zstd")
        rows += len(table)
    return staging.publish(Counts(unit="record", rows_in=rows, rows_out=rows))


def synthetic_inventory(store: ArtifactStore, rows: int, text_only_every: int = 5, flawed_every: int = 0) -> Artifact:
    """An inventory of made-up records with one turn. Their images do not exist.

    Args:
        text_only_every: every so many records have no image; 1 for all.
        flawed_every: every so many records have Llama's end-of-turn token in the answer; 0 for none.
    """
    starts = range(0, rows, SHARD_ROWS)
    shards = (_shard(start, min(SHARD_ROWS, rows - start), text_only_every, flawed_every) for start in starts)
    return publish_inventory(store, shards, len(starts))


def _shard(start: int, rows: int, text_only_every: int, flawed_every: int) -> pa.Table:
    rng = np.random.default_rng(start)
    numbers = np.arange(start, start + rows)
    shown = numbers % text_only_every != 0
    text = pc.cast(pa.array(numbers), pa.string())
    flaws = pa.array(numbers % flawed_every == 0 if flawed_every else np.zeros(rows, bool))
    answers = pc.binary_join_element_wise(
        "A red circle beside number ", text, pc.if_else(flaws, "<|eot_id|>", " and nothing else."), ""
    )
    questions = pa.array(["What is in the picture?"] * rows, pa.string())
    turns = pa.StructArray.from_arrays([questions, answers], names=["question", "answer"])
    hidden = pa.array(~shown)

    def where_shown(column: pa.Array) -> pa.Array:
        return pc.if_else(hidden, pa.nulls(rows, column.type), column)

    columns = {
        "sample_id": _hashes(rng, rows),
        "given_id": text,
        "source": pc.if_else(pa.array(numbers % 3 == 0), "allava", "sam"),
        "has_image": pa.array(shown),
        "image": where_shown(pc.binary_join_element_wise("sam/images/", text, ".jpg", "")),
        "image_sha256": where_shown(_hashes(rng, rows)),
        "image_format": where_shown(pa.array(["JPEG"] * rows)),
        "width": where_shown(pa.array(np.full(rows, 640, np.int32))),
        "height": where_shown(pa.array(np.full(rows, 480, np.int32))),
        "turns": pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32)), turns),
    }
    return pa.table(columns, schema=RECORDS)


def _hashes(rng: np.random.Generator, rows: int) -> pa.Array:
    """(rows,) random texts of 64 hex digits."""
    offsets = pa.py_buffer(np.arange(0, 64 * (rows + 1), 64, dtype=np.int32))
    return pa.StringArray.from_buffers(rows, offsets, pa.py_buffer(rng.bytes(32 * rows).hex().encode()))
