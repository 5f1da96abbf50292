"""pack: tokenize conversations and put images and tokens into shards, in a seeded random order.

The order and every shard's content follow from the records' ids, the seed and the parameters, so shards can be made in
any order, by any number of workers, and again after a crash.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from model.errors import DataError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.shards import Seal
from pipeline.compute.sorting import Sorter, in_pieces, key_column, order_keys
from pipeline.compute.workers import ordered, workers_for
from pipeline.packing.formats import open_format
from pipeline.packing.shards import NEEDED, PackJob, build_shard
from pipeline.plan.parameters import PackParams
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.dropped import Dropped, dropped_records
from pipeline.steps.record_batches import record_batches
from pipeline.steps.reject_limit import check_reject_limit, earlier_commits, exceeds, rejects_of

RAY_FROM = 10000  # records; for fewer, starting Ray's workers takes longer than they save
Seals = dict[int, Seal]
"""Number of a shard -> its commit."""


@dataclass(frozen=True)
class Layout:
    """The number of records, and their division into shards."""

    rows: int
    shard_rows: int

    @property
    def shards(self) -> int:
        """Shards of the pack; the last may be short."""
        return max(1, -(-self.rows // self.shard_rows))

    def size(self, shard: int) -> int:
        """Records of one shard."""
        return max(0, min(self.shard_rows, self.rows - shard * self.shard_rows))


def run(context: StepContext) -> Outcome:
    """Make the pack of one data set. Raises ConfigError, DataError or StepError."""
    params = context.params(PackParams)
    inventory = context.inputs["inventory"]
    tokenizer = context.locations.weights_of("text")
    open_format(tokenizer, params.pack.template, params.pack.system_prompt)  # raises here, not in each worker
    folder = context.input_path("inventory", "records/")
    files = [folder / name for name in inventory.matching("records/", ".parquet")]
    dropped = dropped_records(context, inventory.ref.name, params.drop)
    left_out = _count_dropped(files, dropped)
    total = inventory.manifest.counts.rows_out
    check_reject_limit(
        f"records of pack-{inventory.ref.name}", left_out, total, 1.0, "Drop less of them in the recipe."
    )
    layout = Layout(total - sum(left_out.values()), params.pack.shard_rows)
    job = PackJob(
        shards=context.staging.shards(),
        count=layout.shards,
        dataset=inventory.ref.name,
        images=context.images(),
        tokenizer=tokenizer,
        config=params.pack,
    )
    names = [job.name(number) for number in range(layout.shards)]
    # share=1.0 keeps shards with rejects: a pack's rejects depend on the records and parameters only, so making such a
    # shard again would reject the same. With too many of them the step fails at once.
    seals = earlier_commits(job.shards, names, layout.rows, share=1.0)
    _check(context, layout, seals)
    if len(seals) < layout.shards:
        _make(context, job, layout, _sorted(context, files, params.seed, layout, dropped), seals)
    return _outcome(context, layout, [seals[number] for number in range(layout.shards)], left_out)


def _count_dropped(files: Sequence[Path], dropped: Dropped | None) -> dict[str, int]:
    """Kind -> records that the recipe drops."""
    if dropped is None:
        return {}
    for batch in record_batches(files, ["sample_id"]):
        dropped.find(batch.column("sample_id"), count=True)
    return dict(dropped.counts)


def _sorted(
    context: StepContext, files: Sequence[Path], seed: int, layout: Layout, dropped: Dropped | None
) -> Iterator[pa.Table]:
    """The records of each shard, in order. Raises DataError if there are not as many as the inventory says."""
    sorter = Sorter(NEEDED, context.work())
    for batch in record_batches(files, NEEDED.names):
        if dropped is not None:
            batch = batch.filter(pa.array(~dropped.find(batch.column("sample_id"))))
        sorter.add(pa.Table.from_batches([batch]), key_column(order_keys("pack", seed, batch.column("sample_id"))))
    if sorter.rows != layout.rows:
        raise DataError(
            f"{context.inputs['inventory'].ref} has {layout.rows} records to pack, but its files have {sorter.rows}: "
            "files of an artifact were changed; 'agevlm verify' shows which"
        )
    return in_pieces(sorter.read(), layout.shard_rows) if layout.rows else iter([NEEDED.empty_table()])


def _make(context: StepContext, job: PackJob, layout: Layout, shards: Iterator[pa.Table], seals: Seals) -> None:
    """Make and commit the shards that are missing."""
    done, rejected = sum(layout.size(number) for number in seals), rejects_of(seals.values())
    made = set(seals)
    missing = [number for number in range(layout.shards) if number not in made]
    context.progress.update(done, layout.rows)
    pieces = ((job, number, records) for number, records in enumerate(shards) if number not in made)
    with workers_for(layout.rows - done, RAY_FROM, context.resources) as workers:
        for number, seal in zip(missing, ordered(workers, build_shard, pieces), strict=True):
            seals[number] = seal
            done += layout.size(number)
            rejected += rejects_of([seal])
            context.progress.update(done, layout.rows, rejected=rejected.total())
            context.progress.rejects(rejected)
            if exceeds(rejected, layout.rows, context.locations.max_reject_share):
                _check(context, layout, seals)


def _check(context: StepContext, layout: Layout, seals: Seals) -> None:
    """Raise DataError if the rejects of these shards exceed the reject limit."""
    first = next((seals[number].facts["first"] for number in sorted(seals) if seals[number].facts["first"]), "")
    check_reject_limit(
        f"records of pack-{context.inputs['inventory'].ref.name}",
        rejects_of(seals.values()),
        layout.rows,
        context.locations.max_reject_share,
        f"The first: {first}\n"
        "Correct the records or pack.max_tokens in the recipe, or allow more with max_reject_share.",
    )


def _outcome(context: StepContext, layout: Layout, seals: list[Seal], left_out: dict[str, int]) -> Outcome:
    """Count every record, and commit the table of rejects. `left_out`: kind -> records that the recipe drops."""
    statistics: Counter[str] = Counter()
    for seal in seals:
        statistics.update(seal.facts["statistics"])
    summary = context.staging.commit_reject_parts(seals)
    counts = Counts(
        unit=context.step.unit,
        rows_in=layout.rows + sum(left_out.values()),
        rows_out=sum(seal.rows for seal in seals),
        rejected=dict(rejects_of(seals)),
        not_selected=sum(left_out.values()),
    )
    facts = {**statistics, "shards": layout.shards} | ({"dropped": left_out} if "overlap" in context.inputs else {})
    return Outcome(counts, facts, seals=[*seals, summary])
