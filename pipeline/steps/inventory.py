"""inventory: read every record, resolve, open and hash every image once, and say by name what cannot be used.

Shards of `RECORDS_PER_SHARD` raw records are committed one by one in the work folder; after a crash only those that
are missing are made again. The result does not depend on the number of workers.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import DataError
from pipeline.artifacts.manifest import Counts
from pipeline.budget import check_budget, exceeds
from pipeline.schemas import RECORDS, TRUTH, part_name
from pipeline.sources.images import ImageFacts
from pipeline.sources.index import Index, build_index
from pipeline.sources.inspection import BATCH, Inspector
from pipeline.sources.opening import source_of
from pipeline.sources.records import Entry, RawSource, Record, Rejected, Truth, printable
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.params import InventoryParams
from pipeline.whole import write_whole
from pipeline.workers import workers_for

RECORDS_PER_SHARD = 64 * BATCH
RAY_FROM = 4000  # images; for fewer (at 5 ms each), starting Ray's workers takes longer than they save
EXAMPLES = 5
MAX_DETAIL = 1000  # characters
Note = dict[str, Any]  # of a shard: digest of the raw data's ids, rows of each table, rejects and statistics


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
            self._reject(entry.sample_id, entry.reason, entry.detail)
        elif facts is not None and facts.reason:
            self._reject(entry.sample_id, facts.reason, facts.detail)
        else:
            self._accept(entry, facts)

    def _reject(self, sample_id: str, reason: str, detail: str) -> None:
        """Details quote raw data: they are made such that they can be written, and short."""
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

    def __init__(self, folder: Path, index: Index, knows_truth: bool) -> None:
        self._folder, self._index = folder, index
        self._tables = {"records": RECORDS, "truth": TRUTH} if knows_truth else {"records": RECORDS}
        self.count = -(-index.taken // RECORDS_PER_SHARD)

    def size(self, number: int) -> int:
        """Raw records of a shard."""
        return min(RECORDS_PER_SHARD, self._index.taken - number * RECORDS_PER_SHARD)

    def notes(self) -> dict[int, Note]:
        """The notes of the finished shards. What cannot be read whole, or is of other raw data, is not finished."""
        found = ((number, self._read(number)) for number in range(self.count))
        return {number: note for number, note in found if note is not None}

    def write(self, number: int, shard: Shard) -> Note:
        """Finish a shard."""
        self.drop(number)  # an old note must not stand beside new tables
        rows = {"records": shard.records, "truth": shard.truth}
        for table, schema in self._tables.items():
            with write_whole(self._folder / self._name(number, table)) as stream:
                pq.write_table(pa.Table.from_pylist(rows[table], schema=schema), stream, compression="zstd")
        note = {
            "of": self._index.digest,
            "rows": {table: len(rows[table]) for table in self._tables},
            "rejects": shard.rejects,
            "statistics": shard.statistics,
        }
        with write_whole(self._note(number)) as stream:
            stream.write(json.dumps(note).encode("ascii"))
        return note

    def drop(self, number: int) -> None:
        """Take a commit back, so that the shard is made again."""
        self._note(number).unlink(missing_ok=True)

    def tables(self) -> Iterator[tuple[Path, str]]:
        """Path and name in the artifact of every table."""
        for table in self._tables:
            for number in range(self.count):
                yield self._folder / self._name(number, table), self._name(number, table)

    def _read(self, number: int) -> Note | None:
        try:
            note: Note = json.loads(self._note(number).read_text(encoding="utf-8"))
            rows = {
                table: pq.read_metadata(self._folder / self._name(number, table)).num_rows for table in self._tables
            }
            whole = note["rows"] == rows and note["of"] == self._index.digest
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None
        return note if whole else None

    def _name(self, number: int, table: str) -> str:
        return part_name(number, self.count, table)

    def _note(self, number: int) -> Path:
        return self._folder / "notes" / f"{number:05d}-of-{self.count:05d}.json"


def run(context: StepContext) -> Outcome:
    """Make the inventory of one data set. Raises DataError."""
    params = context.params(InventoryParams)
    source = source_of(context.site, context.job.ref.name)
    index = build_index(source, params.seed, params.limit)
    if not index.total:
        raise DataError(f"data.{context.job.ref.name} holds no records; correct its annotation file in the recipe")
    commits = Commits(context.work(), index, source.knows_truth)
    notes = commits.notes()
    if exceeds(reasons(notes.values()), index.taken, context.site.max_reject_share):
        # An earlier run failed for these. Whether they were repaired only another look can tell.
        for number in [number for number, note in notes.items() if note["rejects"]]:
            commits.drop(number)
            del notes[number]
    _inspect(context, context.site.max_reject_share, source, index, commits, notes)
    return _publish(context, index, commits, notes)


def _inspect(
    context: StepContext, share: float, source: RawSource, index: Index, commits: Commits, notes: dict[int, Note]
) -> None:
    """Make the shards that are not committed yet, and fill in their notes; stops when too much is rejected."""
    rejected = reasons(notes.values())
    with workers_for(index.images, RAY_FROM) as workers:
        inspector = Inspector(source.images, index, workers)
        entries = iter(index.walk(source))
        for number in range(commits.count):
            mine, done = islice(entries, commits.size(number)), number * RECORDS_PER_SHARD
            if number in notes:
                inspector.skip(mine)
                continue
            shard = Shard()
            for batch in inspector.inspect(_batches(mine)):
                for entry, facts in batch:
                    shard.add(entry, facts)
                done += len(batch)
                context.progress.update(done, index.taken, rejected=rejected.total() + len(shard.rejects))
            notes[number] = commits.write(number, shard)
            rejected += reasons([notes[number]])
            stopped = "" if done == index.taken else f" (stopped after {done})"
            what = f"records of data.{context.job.ref.name}{stopped}"
            check_budget(what, rejected, index.taken, share, _remedy(notes))
        next(entries, None)  # reads on to the end, which shows whether the raw data is still what it was


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def reasons(notes: Iterable[Note]) -> Counter[str]:
    """Rejects by reason."""
    return Counter(reason for note in notes for _, reason, _ in note["rejects"])


def _remedy(notes: dict[int, Note]) -> str:
    """Some rejects, for people to see what is wrong, and what to do."""
    rejects = (reject for _, note in sorted(notes.items()) for reject in note["rejects"])
    examples = [f"  {reason}: {detail}" for _, reason, detail in islice(rejects, EXAMPLES)]
    remedy = "Correct the data or its locations in the recipe and run again, or allow more with max_reject_share."
    return "\n".join(["the first of them:", *examples, remedy])


def _publish(context: StepContext, index: Index, commits: Commits, notes: dict[int, Note]) -> Outcome:
    """Take the commits into the artifact and account for every record."""
    ordered = [notes[number] for number in range(commits.count)]
    for path, name in commits.tables():
        context.staging.add_file(path, name)
    context.staging.write_rejects([(i, reason, detail) for note in ordered for i, reason, detail in note["rejects"]])
    statistics: Counter[str] = Counter()
    for note in ordered:
        statistics.update(note["statistics"])
    counts = Counts(
        unit=context.step.unit,
        rows_in=index.total,
        rows_out=sum(note["rows"]["records"] for note in ordered),
        rejected=dict(reasons(ordered)),
        not_selected=index.total - index.taken,
    )
    return Outcome(counts, {**statistics, "images_named": index.images})
