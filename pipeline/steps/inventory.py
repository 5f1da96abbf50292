"""inventory: read every record, resolve, open and hash every image once, and say by name what cannot be used.

Shards of `RECORDS_PER_SHARD` raw records are committed one by one in the work folder; after a crash only those that
are missing are made again. The result does not depend on the number of workers.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import DataError, StepError
from pipeline.artifacts.manifest import Counts
from pipeline.schemas import RECORDS, TRUTH, part_name
from pipeline.sources.images import ImageFacts
from pipeline.sources.index import build_index
from pipeline.sources.inspection import BATCH, Inspector
from pipeline.sources.opening import source_of
from pipeline.sources.records import Entry, Record, Rejected, Truth
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.params import InventoryParams
from pipeline.workers import workers_for

RECORDS_PER_SHARD = 64 * BATCH
RAY_FROM = 4000  # images; for fewer (at 5 ms each), starting Ray's workers takes longer than they save
EXAMPLES = 5


@dataclass
class Shard:
    """The rows of one shard, and what it adds to the statistics."""

    records: list[dict[str, Any]] = field(default_factory=list)
    truth: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[tuple[str, str, str]] = field(default_factory=list)
    statistics: Counter[str] = field(default_factory=Counter)

    def add(self, entry: Entry, facts: ImageFacts | None) -> None:
        """Take one record, or reject it."""
        if isinstance(entry, Rejected):
            self.rejects.append((entry.sample_id, entry.reason, entry.detail))
        elif facts is not None and facts.reason:
            self.rejects.append((entry.sample_id, facts.reason, facts.detail))
        else:
            self._accept(entry, facts)

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
            # The annotation was made for another frame (a rotation, another size): a mask would lie elsewhere.
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


class Commits:
    """The finished shards in the work folder: two tables and a note, of which the note comes last."""

    def __init__(self, folder: Path, count: int, knows_truth: bool) -> None:
        self._folder, self._count, self._knows_truth = folder, count, knows_truth

    def note(self, index: int) -> dict[str, Any] | None:
        """Rejects and statistics of a finished shard; None if it is not finished."""
        try:
            return json.loads(self._note(index).read_text(encoding="utf-8"))  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None

    def write(self, index: int, shard: Shard) -> None:
        """Finish a shard."""
        self._table(part_name(index, self._count, "records"), shard.records, RECORDS)
        if self._knows_truth:
            self._table(part_name(index, self._count, "truth"), shard.truth, TRUTH)
        partial = self._note(index).with_suffix(".part")
        partial.parent.mkdir(exist_ok=True)
        partial.write_text(json.dumps({"rejects": shard.rejects, "statistics": shard.statistics}), encoding="utf-8")
        os.replace(partial, self._note(index))

    def tables(self) -> Iterator[tuple[Path, str]]:
        """Path and name in the artifact of every table."""
        for table in ("records", "truth") if self._knows_truth else ("records",):
            for index in range(self._count):
                name = part_name(index, self._count, table)
                yield self._folder / name, name

    def _note(self, index: int) -> Path:
        return self._folder / "notes" / f"{index:05d}-of-{self._count:05d}.json"

    def _table(self, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial, compression="zstd")
        os.replace(partial, path)


def run(context: StepContext) -> Outcome:
    """Make the inventory of one data set. Raises DataError or StepError."""
    params = context.params(InventoryParams)
    source = source_of(context.site, context.job.ref.name)
    index = build_index(source, params.seed, params.limit)
    if not index.total:
        raise DataError(f"data.{context.job.ref.name} holds no records; correct its annotation file in the recipe")
    count = -(-index.taken // RECORDS_PER_SHARD)
    commits = Commits(context.work(), count, source.knows_truth)
    rejects: list[tuple[str, str, str]] = []
    statistics: Counter[str] = Counter()
    allowed = params.max_reject_share * index.taken

    with workers_for(index.images, RAY_FROM) as workers:
        inspector = Inspector(source.images, index, workers)
        entries = iter(index.walk(source))
        for number in range(count):
            size = min(RECORDS_PER_SHARD, index.taken - number * RECORDS_PER_SHARD)
            note = commits.note(number)
            if note is None:
                shard = Shard()
                done = number * RECORDS_PER_SHARD
                for batch in inspector.inspect(_batches(islice(entries, size))):
                    for entry, facts in batch:
                        shard.add(entry, facts)
                    done += len(batch)
                    context.progress.update(done, index.taken, rejected=len(rejects) + len(shard.rejects))
                commits.write(number, shard)
                note = {"rejects": shard.rejects, "statistics": shard.statistics}
            else:
                inspector.skip(islice(entries, size))
            rejects += [(str(i), str(reason), str(detail)) for i, reason, detail in note["rejects"]]
            statistics.update(note["statistics"])
            if len(rejects) > allowed:
                seen = min((number + 1) * RECORDS_PER_SHARD, index.taken)
                raise StepError(too_many(context.job.ref.name, rejects, seen, index.taken, params.max_reject_share))

    for path, name in commits.tables():
        context.staging.add_file(path, name)
    context.staging.write_rejects(rejects)
    counts = Counts(
        unit=context.step.unit,
        rows_in=index.total,
        rows_out=index.taken - len(rejects),
        rejected=dict(Counter(reason for _, reason, _ in rejects)),
        not_selected=index.total - index.taken,
    )
    return Outcome(counts, {**statistics, "images_named": index.images})


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def too_many(dataset: str, rejects: list[tuple[str, str, str]], seen: int, total: int, share: float) -> str:
    """The message of an inventory that rejects more than it may."""
    reasons = Counter(reason for _, reason, _ in rejects)
    lines = [f"  {reason}: {number}" for reason, number in reasons.most_common()]
    examples = [f"  {reason}: {detail}" for _, reason, detail in rejects[:EXAMPLES]]
    part = "" if seen == total else f" (stopped after {seen} of {total})"
    return "\n".join(
        [
            f"data.{dataset}: {len(rejects)} of {seen} records cannot be used{part}, "
            f"more than max_reject_share = {share:g} of {total} allows:",
            *lines,
            "the first of them:",
            *examples,
            "Correct the data or its locations in the recipe, or allow more with max_reject_share.",
        ]
    )
