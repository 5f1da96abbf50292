"""inventory: read every record, find, open and hash every image once, and reject unusable records with a reason.

The work is in `pipeline.inventory`; here its tasks are started, and their counts added up. Each task commits its
result, so after a crash only missing ones run. The result does not depend on the number of workers.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.errors import DataError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.shards import Seal
from pipeline.artifacts.spec import digest
from pipeline.compute.workers import Workers, ordered, workers_for
from pipeline.inventory.job import BUCKET_RECORDS, InventoryJob, Piece, file_key
from pipeline.inventory.joining import join, shard_name
from pipeline.inventory.listing import archive_name, list_archive, needed, stamp_of_archive
from pipeline.inventory.looking import bucket_name, look
from pipeline.inventory.reading import is_whole, pieces_of, read_split, split_name
from pipeline.plan.parameters import InventoryParams
from pipeline.sources.images.archives import Archive
from pipeline.sources.interface import Split
from pipeline.sources.records import printable
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.reject_limit import check_reject_limit, exceeds

RAY_FROM = 4000  # records; for fewer, starting Ray's workers takes longer than they save
EXAMPLES = 5


def run(context: StepContext) -> Outcome:
    """Make the inventory of one data set. Raises DataError."""
    params = context.params(InventoryParams)
    dataset = replace(context.dataset(context.job.ref.name), version=params.fingerprint)
    source = dataset.open()
    archives, small = dataset.archives(), source.size < RAY_FROM
    shards = context.staging.shards(digest([params.fingerprint, params.limit]))
    job = InventoryJob(
        dataset=replace(dataset, kept=shards.location),
        work=context.staging.work_shards("inventory"),
        shards=shards,
        buckets=max(1, -(-min(source.size, params.limit or source.size) // BUCKET_RECORDS)),
        threads=max(1, math.floor(context.resources.cpus * (context.resources.workers if small else 1))),
        knows_truth=source.knows_truth,
        unit=source.unit,
        frame=getattr(dataset.source, "annotation_frame", "upright"),
    )
    with workers_for(source.size, RAY_FROM, context.resources) as workers:
        return _Inventory(context, job, workers, archives).make(params.limit)


@dataclass
class _Inventory:
    """An inventory that is being made."""

    context: StepContext
    job: InventoryJob
    workers: Workers
    archives: list[Archive]

    @property
    def name(self) -> str:
        """The data set, for messages."""
        return f"data.{self.context.job.ref.name}"

    def make(self, limit: int | None) -> Outcome:
        """Run the tasks that are not committed yet, in four rounds."""
        splits = self._read(limit)
        pieces = pieces_of(splits)
        total = sum(piece.entries for piece in pieces)
        if not total:
            raise DataError(f"{self.name} holds no records; correct its annotation file in the recipe")
        listed = self._list(pieces, limit)
        for seal in listed:
            if seal.facts["damage"]:
                print(f"{self.name}: archive {printable(seal.facts['archive'])}: {seal.facts['damage']}", flush=True)
        looked = self._look(pieces, listed, splits, total)
        names = [shard_name(piece.number) for piece in pieces]
        found = self.job.shards.committed()
        shards = list(self._round(found, names, join, lambda n: (pieces[n], len(pieces))))
        return self._outcome(splits, listed, looked, shards, total)

    # -- the rounds

    def _round(
        self,
        found: Mapping[str, Seal],
        names: list[str],
        task: Callable[..., Seal],
        arguments: Callable[[int], tuple[Any, ...]],
    ) -> Iterator[Seal]:
        """The seal of each name, in order; a task runs for each one that is not `found` among the commits."""
        missing = [number for number, name in enumerate(names) if name not in found]
        made = ordered(self.workers, task, ((self.job, *arguments(number)) for number in missing))
        for name in names:
            yield found[name] if name in found else next(made)

    @property
    def _buckets(self) -> list[str]:
        """The names of the commits of all buckets."""
        return [bucket_name(number) for number in range(self.job.buckets)]

    def _unchanged(self, archives: Mapping[str, Archive]) -> dict[str, Seal]:
        """The commits of archives. Those of archives that were written again since are dropped, with all that follows.

        An archive of the same size changes no fingerprint, so an earlier try may have read a damaged one.
        """
        known = self.job.work.committed()
        now = {name: stamp_of_archive(archive) for name, archive in archives.items() if name in known}
        changed = [name for name, stamp in now.items() if known[name].facts["stamp"] != stamp]
        if not changed:
            return known
        copied = [name for name in now if known[name].facts["images"]]
        for name in {*changed, *copied, *(name for name in self._buckets if name in known)}:
            self.job.work.drop(name)
            del known[name]
        self.job.shards.drop_all()  # also images that were copied from an archive that was read only in part
        return known

    def _read(self, limit: int | None) -> list[Seal]:
        """Read the splits: all of them in parallel, or one after the other until there are `limit` entries."""
        source = self.job.dataset.open()
        splits = source.splits()
        names = [split_name(split.number) for split in splits]
        known = self.job.work.committed()
        for split, name in zip(splits, names, strict=True):
            if name in known and not is_whole(split.number, known):
                self.job.work.drop(name)
                del known[name]
        if limit is None:
            found = self._round(known, names, read_split, lambda n: (splits[n], None))
        else:
            found = self._read_some(splits, known, limit)
        seals: list[Seal] = []
        entries = 0
        for seal in found:
            seals.append(seal)
            entries += seal.rows
            self.context.progress.update(entries, max(entries, source.size if limit is None else limit))
        return seals

    def _read_some(self, splits: Sequence[Split], known: Mapping[str, Seal], limit: int) -> Iterator[Seal]:
        for split in splits:
            seal = known.get(split_name(split.number)) or read_split(self.job, split, limit)
            limit -= seal.rows
            yield seal
            if not limit:
                return

    def _list(self, pieces: list[Piece], limit: int | None) -> list[Seal]:
        """List the archives; with a limit only those that may hold an image of these records."""
        numbers = list(range(len(self.archives)))
        if limit is not None and self.archives:
            tables = (self.job.read_table(piece.file("named")) for piece in pieces)
            references = {image for table in tables for image in table["image"].to_pylist()}
            numbers = needed(self.archives, references, self.job.dataset.images().aliases)
            self.job = replace(self.job, wanted=frozenset(map(file_key, references)))
        names = [archive_name(number) for number in numbers]
        known = self._unchanged(dict(zip(names, (self.archives[number] for number in numbers), strict=True)))
        return list(self._round(known, names, list_archive, lambda n: (numbers[n], self.archives[numbers[n]])))

    def _look(self, pieces: list[Piece], listed: list[Seal], splits: list[Seal], total: int) -> list[Seal]:
        """Look into the buckets. Raises DataError as soon as the reject limit is exceeded."""
        share = self.context.locations.max_reject_share
        names = self._buckets
        rejected = sum((Counter(seal.facts["rejected"]) for seal in splits), Counter[str]())
        found = {name: seal for name, seal in self.job.work.committed().items() if name in names}
        if exceeds(sum((Counter(seal.facts["rejected"]) for seal in found.values()), rejected), total, share):
            # The images may have been repaired since.
            for name in [name for name, seal in found.items() if seal.facts["rejected"]]:
                self.job.work.drop(name)
                del found[name]
        seals: list[Seal] = []
        examples: list[str] = []
        for seal in self._round(found, names, look, lambda n: (n, pieces, listed)):
            seals.append(seal)
            rejected.update(seal.facts["rejected"])
            examples += [f"  {reason}: {detail}" for reason, detail in seal.facts["examples"]]
            self.context.progress.update(total * len(seals) // len(names), total, rejected=rejected.total())
            self.context.progress.rejects(rejected)
            if exceeds(rejected, total, share):
                stopped = "" if len(seals) == len(names) else f" (stopped at part {len(seals)} of {len(names)})"
                what = f"records of {self.name}{stopped}"
                check_reject_limit(what, rejected, total, share, self._remedy(pieces, examples))
        return seals

    # -- the end

    def _remedy(self, pieces: list[Piece], examples: list[str]) -> str:
        """The end of an error message: some rejects as examples, and the remedy."""
        early: list[str] = []
        for piece in pieces:
            rejected = self.job.read_table(piece.file("rejected")).slice(0, EXAMPLES).to_pylist()
            early += [
                f"  {row['reason']}: {self.job.unit} {row['number'] + piece.first_line}: {row['detail']}"
                for row in rejected
            ]
            if len(early) >= EXAMPLES:
                break
        some = [*early[: max(2, EXAMPLES - len(examples))], *examples][:EXAMPLES]
        remedy = "Correct the data or its locations in the recipe and run again, or allow more with max_reject_share."
        return "\n".join(["some of them:", *some, remedy])

    def _outcome(
        self, splits: list[Seal], listed: list[Seal], looked: list[Seal], shards: list[Seal], total: int
    ) -> Outcome:
        """Add up the counts of all shards."""
        statistics, rejected, changed = Counter[str](), Counter[str](), Counter[str]()
        for seal in shards:
            statistics.update(seal.facts["statistics"])
            rejected.update(seal.facts["rejected"])
        for seal in splits:
            changed.update(seal.facts["changes"])
        counts = Counts(
            unit=self.context.step.unit,
            rows_in=total,
            rows_out=sum(seal.rows for seal in shards),
            rejected=dict(rejected),
        )
        plain = {name: number for name, number in statistics.items() if ":" not in name}
        groups: dict[str, dict[str, Any]] = {
            "repairs": _group(statistics, "repair"),
            "formats": _group(statistics, "format"),
            "changes": dict(changed),
        }
        findings, examples = self.job.dataset.open().findings
        for example in examples:
            print(f"{self.name}: {example}", flush=True)
        groups |= {name: dict(found) for name, found in findings.items()}
        damaged = {printable(seal.facts["archive"]): seal.facts["damage"] for seal in listed if seal.facts["damage"]}
        groups["archives_damaged"] = damaged
        named = sum(seal.facts["images"] for seal in looked)
        images = [Seal.model_validate(image) for seal in listed for image in seal.facts["images"]]
        groups = {name: found for name, found in groups.items() if found}
        return Outcome(counts, {**plain, "images_named": named, **groups}, seals=[*shards, *images])


def _group(statistics: Mapping[str, int], prefix: str) -> dict[str, int]:
    start = f"{prefix}:"
    return {name.removeprefix(start): number for name, number in sorted(statistics.items()) if name.startswith(start)}
