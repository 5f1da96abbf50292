"""inventory: read every record, resolve, open and hash every image once, and reject unusable records with a reason.

Shards of `RECORDS_PER_SHARD` raw records are committed one by one; after a crash only the missing ones are made. The
result does not depend on the number of workers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import DataError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.shards import Seal, Shards
from pipeline.artifacts.staging import Reject
from pipeline.compute.workers import workers_for
from pipeline.plan.parameters import InventoryParams
from pipeline.schemas import RECORDS, TRUTH, part_name
from pipeline.sources.images import ImageFacts
from pipeline.sources.index import Index, build_index
from pipeline.sources.inspection import BATCH, Inspector
from pipeline.sources.records import Entry, RawSource, Record, Rejected, Truth, printable
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.reject_limit import check_reject_limit, earlier_commits, rejected_rows, rejects_of

RECORDS_PER_SHARD = 64 * BATCH
RAY_FROM = 4000  # images; for fewer (at 5 ms each), starting Ray's workers takes longer than they save
EXAMPLES = 5
MAX_DETAIL = 1000  # characters
Seals = dict[int, Seal]
"""Number of a shard -> its commit."""


@dataclass
class ShardRows:
    """The rows of one shard, and its part of the statistics."""

    records: list[dict[str, Any]] = field(default_factory=list)
    truth: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    statistics: Counter[str] = field(default_factory=Counter)

    def add(self, entry: Entry, facts: ImageFacts | None) -> None:
        """Add one record, or reject it."""
        if isinstance(entry, Rejected):
            self._reject(entry.sample_id, entry.reason, entry.detail)
        elif facts is not None and facts.reason:
            self._reject(entry.sample_id, facts.reason, facts.detail)
        else:
            self._accept(entry, facts)

    def _reject(self, sample_id: str, reason: str, detail: str) -> None:
        """Details quote raw data, so they are cut and made valid UTF-8."""
        self.rejects.append((sample_id, reason, printable(detail[:MAX_DETAIL])))

    def _accept(self, record: Record, facts: ImageFacts | None) -> None:
        self.records.append(
            {
                "sample_id": record.sample_id,
                "given_id": record.given_id,
                "has_image": facts is not None,
                "image": record.image,
                "image_sha256": facts.sha256 if facts else None,
                "width": facts.width if facts else None,
                "height": facts.height if facts else None,
                "turns": [{"question": turn.question, "answer": turn.answer} for turn in record.turns],
            }
        )
        self.statistics["turns"] += len(record.turns)
        self.statistics["with_image" if facts else "text_only"] += 1
        self.statistics["exact_copies"] += "#" in record.sample_id
        for number, truth in enumerate(record.truth or ()):
            if truth is not None and facts is not None:
                self._add_truth(record.sample_id, number, truth, facts)

    def _add_truth(self, sample_id: str, turn: int, truth: Truth, facts: ImageFacts) -> None:
        if truth.present and (truth.height, truth.width) != (facts.height, facts.width):
            # The annotation is for another orientation or size of the image: its mask would be in the wrong place.
            self.statistics["truth_of_another_size"] += 1
            return
        size = {"height": facts.height, "width": facts.width}
        self.truth.append(
            {
                "sample_id": sample_id,
                "turn": turn,
                "present": truth.present,
                "rle": truth.rle if truth.present else None,
            }
            | size
        )
        self.statistics["turns_with_truth"] += 1


@dataclass(frozen=True)
class Layout:
    """The division of the raw records into shards, and the tables of a shard."""

    index: Index
    knows_truth: bool

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-self.index.taken // RECORDS_PER_SHARD)

    def size(self, number: int) -> int:
        """Number of raw records in a shard."""
        return min(RECORDS_PER_SHARD, self.index.taken - number * RECORDS_PER_SHARD)

    def commit(self, shards: Shards, number: int, shard: ShardRows) -> Seal:
        """Write the tables of a shard and seal it."""
        tables = {"records": (shard.records, RECORDS)} | ({"truth": (shard.truth, TRUTH)} if self.knows_truth else {})
        files = {
            part_name(number, self.count, table): partial(_write, pa.Table.from_pylist(rows, schema=schema))
            for table, (rows, schema) in tables.items()
        }
        facts = {"rejects": shard.rejects, "statistics": shard.statistics}
        return shards.commit(shard_name(number), files, len(shard.records), facts)


def shard_name(number: int) -> str:
    """Name of a shard's commit."""
    return f"{number:05d}"


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


def run(context: StepContext) -> Outcome:
    """Make the inventory of one data set. Raises DataError."""
    params, name = context.params(InventoryParams), context.job.ref.name
    source = context.open_source(name)
    index = build_index(source, params.seed, params.limit)
    if not index.total:
        raise DataError(f"data.{name} holds no records; correct its annotation file in the recipe")
    layout, shards = Layout(index, source.knows_truth), context.staging.shards(index.digest)
    names = [shard_name(number) for number in range(layout.count)]
    seals = earlier_commits(shards, names, index.taken, context.locations.max_reject_share)
    _inspect(context, source, layout, shards, seals)
    return _outcome(context, layout, [seals[number] for number in range(layout.count)])


def _inspect(context: StepContext, source: RawSource, layout: Layout, shards: Shards, seals: Seals) -> None:
    """Make the shards that are not committed yet. Raises DataError as soon as the reject limit is exceeded."""
    index, name = layout.index, context.job.ref.name
    rejected = rejects_of(seals.values())
    with workers_for(index.images, RAY_FROM) as workers:
        inspector = Inspector(context.images(name), index, workers)
        entries = iter(index.walk(source))
        for number in range(layout.count):
            mine, done = islice(entries, layout.size(number)), number * RECORDS_PER_SHARD
            if number in seals:
                inspector.skip(mine)  # reads its records, so that the next shard's come next
                continue
            shard = ShardRows()
            for batch in inspector.inspect(_batches(mine)):
                for entry, facts in batch:
                    shard.add(entry, facts)
                done += len(batch)
                context.progress.update(done, index.taken, rejected=rejected.total() + len(shard.rejects))
            seals[number] = layout.commit(shards, number, shard)
            rejected += rejects_of([seals[number]])
            stopped = "" if done == index.taken else f" (stopped after {done})"
            what = f"records of data.{name}{stopped}"
            check_reject_limit(what, rejected, index.taken, context.locations.max_reject_share, _remedy(seals))
        next(entries, None)  # read to the end: `walk` raises there if the raw data changed since the first pass


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _remedy(seals: Seals) -> str:
    """The end of an error message: some rejects as examples, and the remedy."""
    rejects = rejected_rows(seals[number] for number in sorted(seals))
    examples = [f"  {reason}: {detail}" for _, reason, detail in islice(rejects, EXAMPLES)]
    remedy = "Correct the data or its locations in the recipe and run again, or allow more with max_reject_share."
    return "\n".join(["the first of them:", *examples, remedy])


def _outcome(context: StepContext, layout: Layout, seals: list[Seal]) -> Outcome:
    """Count every record, and commit the table of rejects."""
    index = layout.index
    summary = context.staging.commit_rejects(rejected_rows(seals), seals)
    statistics: Counter[str] = Counter()
    for seal in seals:
        statistics.update(seal.facts["statistics"])
    counts = Counts(
        unit=context.step.unit,
        rows_in=index.total,
        rows_out=sum(seal.rows for seal in seals),
        rejected=dict(rejects_of(seals)),
        not_selected=index.total - index.taken,
    )
    return Outcome(counts, {**statistics, "images_named": index.images}, seals=[*seals, summary])
