"""subset: choose the records whose text is sent to the teachers, by a seeded hash, and cut out that text.

Records are ranked by a hash of their id, so the choice does not depend on the order of the file, and a smaller subset
is part of every larger one.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.manifest import Counts
from pipeline.plan.parameters import SubsetParams
from pipeline.schemas import QUERIES, part_name
from pipeline.sources.conversation import QueryKind, query_span, turn_text
from pipeline.sources.index import key_of
from pipeline.sources.records import Turn, order_key
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.reject_limit import check_reject_limit

QUERIES_PER_SHARD = 16384
BATCH = 4096  # records read at once
Places = npt.NDArray[np.void]


def run(context: StepContext) -> Outcome:
    """Choose the records and write their queries. Raises DataError if no record can be asked about."""
    params = context.params(SubsetParams)
    folder = context.input_path("inventory")
    files = [folder / name for name in context.inputs["inventory"].matching("records/", ".parquet")]
    total = context.inputs["inventory"].manifest.counts.rows_out

    left_out: Counter[str] = Counter()
    chosen = choose(eligible(files, params.query, left_out), params.size, params.seed)
    check_reject_limit(
        f"records of subset-{context.inputs['inventory'].ref.name}",
        left_out,
        total,
        1.0,  # records without an image or a question are normal; an error only if all of them are
        f"Queries of kind '{params.query}' need records with an image"
        f"{' and a question' if params.query == 'question' else ''}; correct the data, or 'query' in the recipe.",
    )
    available = total - sum(left_out.values())
    tables, seen = [], 0
    for batch in _batches(files):
        tables.append(_queries(batch, chosen, params))
        seen += len(batch)
        context.progress.update(seen, total)
    queries = _ordered(pa.concat_tables(tables) if tables else QUERIES.empty_table(), params.seed)

    count = max(1, -(-len(queries) // QUERIES_PER_SHARD))
    for number in range(count):
        shard = queries.slice(number * QUERIES_PER_SHARD, QUERIES_PER_SHARD)
        context.staging.write_table(part_name(number, count, "queries"), shard)
    statistics = {
        "requested": params.size,
        "available": available,
        "fewer_than_requested": params.size is not None and available < params.size,
        "text_only": left_out["text_only"],
        "empty_question": left_out["empty_question"],
        "not_chosen": available - len(chosen),
        "queries": len(queries),
        "images": len(set(queries.column("image_sha256").to_pylist())),
    }
    counts = Counts(unit=context.step.unit, rows_in=total, rows_out=len(chosen), not_selected=total - len(chosen))
    return Outcome(counts, statistics)


def _batches(files: list[Path]) -> Iterator[pa.Table]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                yield pa.Table.from_batches([batch])


def eligible(files: list[Path], kind: QueryKind, left_out: Counter[str]) -> Iterator[str]:
    """Ids of the records with an image and a text of this kind; the others are counted by reason in `left_out`."""
    columns = ["sample_id", "has_image", *(["turns"] if kind == "question" else [])]
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=columns):
                for row in batch.to_pylist():
                    if not row["has_image"]:
                        left_out["text_only"] += 1
                    elif kind == "question" and not any(turn["question"] for turn in row["turns"]):
                        left_out["empty_question"] += 1
                    else:
                        yield row["sample_id"]


def choose(ids: Iterator[str], size: int | None, seed: int) -> frozenset[bytes]:
    """Sort keys (`place`) of the first `size` ids in the seeded hash order: 16 bytes per id instead of the ids."""
    places = np.frombuffer(b"".join(place(seed, sample_id) for sample_id in ids), dtype=">u8").reshape(-1, 2)
    if size is not None and size < len(places):
        order = np.lexsort((places[:, 1], places[:, 0]))
        places = places[order[:size]]
    return frozenset(row.tobytes() for row in places)


def place(seed: int, sample_id: str) -> bytes:
    """Sort key of a record in the order of choice: 16 bytes."""
    return order_key("subset", seed, sample_id)


def _queries(batch: pa.Table, chosen: frozenset[bytes], params: SubsetParams) -> pa.Table:
    rows = []
    for record in batch.to_pylist():
        if not record["has_image"] or place(params.seed, record["sample_id"]) not in chosen:
            continue
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


def _ordered(queries: pa.Table, seed: int) -> pa.Table:
    """All queries of an image together, images in seeded hash order; then copies of the file, records, turns."""
    shas = queries.column("image_sha256").to_pylist()
    keys = pa.array([order_key("images", seed, sha).hex() for sha in shas], pa.string())
    ranked = queries.append_column("rank", keys)
    by = [(name, "ascending") for name in ("rank", "image", "sample_id", "turn")]
    return ranked.sort_by(by).drop_columns(["rank"])
