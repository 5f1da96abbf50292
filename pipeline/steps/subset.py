"""subset: choose the records whose text is sent to the teachers, by a seeded hash, and cut out that text.

The records are read twice: first the ids, to choose, then the texts of those that were chosen. Memory holds the keys of
the chosen records (24 bytes each, twice; none where all are chosen) and one bucket of queries.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts.manifest import Counts
from pipeline.compute.sorting import Sorter, in_pieces
from pipeline.plan.parameters import SubsetParams
from pipeline.schemas import QUERIES, part_name
from pipeline.sources.conversation import QueryKind, query_span, turn_text
from pipeline.sources.records import Turn, key_of, order_key
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.dropped import Dropped, dropped_records
from pipeline.steps.record_batches import record_batches
from pipeline.steps.reject_limit import check_reject_limit
from pipeline.steps.selection import Places, Selection

QUERIES_PER_SHARD = 16384
COLUMNS = ("sample_id", "turns", "image_sha256", "height", "width", "image")
"""Columns of a chosen record that its queries need."""


def run(context: StepContext) -> Outcome:
    """Choose the records and write their queries. Raises DataError if no record can be asked about.

    Raises ConfigError if a quota names a source that no record has.
    """
    params = context.params(SubsetParams)
    inventory = context.inputs["inventory"]
    folder = context.input_path("inventory", "records/")
    files = [folder / name for name in inventory.matching("records/", ".parquet")]
    total = inventory.manifest.counts.rows_out

    left_out: Counter[str] = Counter()
    selection = Selection(params.seed, params.size, params.quotas)
    dropped = dropped_records(context, inventory.ref.name, params.drop)
    choose(files, params.query, selection, left_out, dropped)
    left_out.update(dropped.counts if dropped else {})
    check_reject_limit(
        f"records of subset-{inventory.ref.name}",
        left_out,
        total,
        1.0,  # records without an image or a question are normal; an error only if all of them are
        f"Queries of kind '{params.query}' need records with an image"
        f"{' and a question' if params.query == 'question' else ''}; correct the data, or 'query' in the recipe.",
    )
    chosen = selection.chosen()
    taken = selection.available if chosen is None else len(chosen)

    sorter = Sorter(QUERIES, context.work())
    seen = 0
    for records, read in _chosen_records(files, params.query, chosen, dropped):
        queries = _queries(records, params)
        if len(queries):
            sorter.add(queries, _keys(queries, params.seed))
        seen += read
        context.progress.update(seen, total)
    statistics: dict[str, Any] = {
        "requested": params.requested,
        "available": selection.available,
        "fewer_than_requested": selection.short,
        "text_only": left_out["text_only"],
        "empty_question": left_out["empty_question"],
        "not_chosen": selection.available - taken,
        "queries": sorter.rows,
        "images": _write(context, sorter),
    }
    if dropped is not None:
        statistics["dropped"] = dict(dropped.counts)
    if params.quotas is not None:
        statistics |= {"without_quota": selection.without_quota, "by_source": selection.by_source()}
    counts = Counts(unit=context.step.unit, rows_in=total, rows_out=taken, not_selected=total - taken)
    return Outcome(counts, statistics)


def choose(
    files: Sequence[Path],
    kind: QueryKind,
    selection: Selection,
    left_out: Counter[str],
    dropped: Dropped | None = None,
) -> None:
    """Show a selection every record with an image and a text of this kind; count the others in `left_out`.

    Records that the recipe drops are left out before that, and counted by `dropped`.
    """
    columns = ["sample_id", "has_image", *(["turns"] if kind == "question" else [])]
    columns += ["source"] if selection.quotas is not None else []
    place = 0
    for batch in record_batches(files, columns):
        able, shown = _able(batch, kind), batch.column("has_image").to_numpy(zero_copy_only=False)
        kept_in = np.ones(len(batch), dtype=bool) if dropped is None else ~dropped.find(batch["sample_id"], count=True)
        left_out["text_only"] += int((kept_in & ~shown).sum())
        left_out["empty_question"] += int((kept_in & shown & ~able).sum())
        able &= kept_in
        kept = np.flatnonzero(able)
        rows = batch.take(pa.array(kept))
        sources = rows.column("source") if selection.quotas is not None else None
        if sources is not None:
            selection.meet(batch.column("source"))
        selection.add(rows.column("sample_id"), sources, place + kept)
        place += len(batch)


def _able(batch: pa.RecordBatch, kind: QueryKind) -> npt.NDArray[np.bool_]:
    """(records,) True for records with an image and a text of this kind."""
    able = np.array(batch.column("has_image").to_numpy(zero_copy_only=False), dtype=bool)
    if kind == "question":
        turns = batch.column("turns")
        asked = pc.binary_length(pc.struct_field(turns.flatten(), "question")).fill_null(0).to_numpy() > 0
        owners = pc.list_parent_indices(turns).to_numpy()
        able &= np.bincount(owners[asked], minlength=len(batch)) > 0
    return able


def _chosen_records(
    files: Sequence[Path], kind: QueryKind, chosen: Places | None, dropped: Dropped | None
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The chosen records of each piece of the inventory, and how many records the piece has."""
    place = 0
    columns = [*COLUMNS, *(["has_image"] if chosen is None else [])]
    for batch in record_batches(files, columns):
        if chosen is None:
            able = _able(batch, kind)
            if dropped is not None:
                able &= ~dropped.find(batch["sample_id"])
            rows = np.flatnonzero(able)
        else:
            first, last = np.searchsorted(chosen, (place, place + len(batch)))
            rows = chosen[first:last] - place
        place += len(batch)
        yield batch.take(pa.array(rows)), len(batch)


def _queries(records: pa.RecordBatch, params: SubsetParams) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for record in records.to_pylist():
        turns = [Turn(turn["question"], turn["answer"]) for turn in record["turns"]]
        for number in pick_turns(record["sample_id"], turns, params):
            start, end = query_span(turns[number], params.query)
            rows.append(
                {
                    "sample_id": record["sample_id"],
                    "turn": number,
                    "query_kind": params.query,
                    "char_start": start,
                    "char_end": end,
                    "image_sha256": record["image_sha256"],
                    "height": record["height"],
                    "width": record["width"],
                    "query": turn_text(turns[number])[start:end],
                    "image": record["image"],
                }
            )
    return pa.Table.from_pylist(rows, schema=QUERIES)


def pick_turns(sample_id: str, turns: list[Turn], params: SubsetParams) -> list[int]:
    """The turns whose text is sent to the teachers: all that have such a text, or one of them by hash."""
    able = [number for number, turn in enumerate(turns) if params.query != "question" or turn.question]
    if params.turns == "all":
        return able
    return [able[key_of("turn", params.seed, sample_id) % len(able)]]


def _keys(queries: pa.Table, seed: int) -> pa.Array:
    """Sort keys: all queries of an image together, images in seeded hash order; then by copy of the file, record, turn.

    A zero byte ends each text, so that a text comes before one that begins with it. No path has a zero byte.
    """
    columns = (queries.column(name).to_pylist() for name in ("image_sha256", "image", "sample_id", "turn"))
    return pa.array(
        [
            order_key("images", seed, sha256) + f"{image}\0{sample_id}\0".encode() + turn.to_bytes(4, "big")
            for sha256, image, sample_id, turn in zip(*columns, strict=True)
        ],
        pa.binary(),
    )


def _write(context: StepContext, sorter: Sorter) -> int:
    """Write the queries in shards. Returns the number of different images."""
    count = max(1, -(-sorter.rows // QUERIES_PER_SHARD))
    images, last = 0, None
    shards = in_pieces(sorter.read(), QUERIES_PER_SHARD) if sorter.rows else iter([QUERIES.empty_table()])
    for number, shard in enumerate(shards):
        context.staging.write_table(part_name(number, count, "queries"), shard)
        for sha256, _ in itertools.groupby(shard.column("image_sha256").to_pylist()):
            images += sha256 != last
            last = sha256
    return images
