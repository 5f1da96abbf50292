"""pack: tokenize conversations and put images and tokens into shards, in a seeded random order.

The order and every shard's content follow from the records' ids, the seed and the parameters, so shards can be made in
any order, by any number of workers, and again after a crash.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.shards import Seal
from pipeline.compute.workers import ordered, workers_for
from pipeline.packing.chat import open_chat
from pipeline.packing.shards import PackJob, build_shard
from pipeline.packing.shuffle import Layout, deal, ranks, shards
from pipeline.plan.parameters import PackParams
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.reject_limit import check_reject_limit, earlier_commits, exceeds, rejected_rows, rejects_of

RAY_FROM = 10000  # records; for fewer, starting Ray's workers takes longer than they save
Seals = dict[int, Seal]
"""Number of a shard -> its commit."""


def run(context: StepContext) -> Outcome:
    """Make the pack of one data set. Raises ConfigError, DataError or StepError."""
    params = context.params(PackParams)
    inventory = context.inputs["inventory"]
    tokenizer = context.locations.weights_of("text")
    open_chat(tokenizer, params.pack.system_prompt)  # raises here, and not in each worker, if it cannot be used
    folder = context.input_path("inventory", "records/")
    files = [folder / name for name in inventory.matching("records/", ".parquet")]
    rank = ranks(files, params.seed)
    layout = Layout(len(rank), params.pack.shard_rows)
    job = PackJob(
        shards=context.staging.shards(),
        count=layout.shards,
        dataset=inventory.ref.name,
        images=context.images(inventory.ref.name),
        tokenizer=tokenizer,
        config=params.pack,
    )
    names = [job.name(number) for number in range(layout.shards)]
    # share=1.0 keeps shards with rejects: a pack's rejects depend on the records and parameters only, so making such a
    # shard again would reject the same. With too many of them the step fails at once.
    seals = earlier_commits(job.shards, names, layout.rows, share=1.0)
    _check(context, layout, seals)
    if len(seals) < layout.shards:
        _make(context, job, layout, files, rank, seals)
    return _outcome(context, layout, [seals[number] for number in range(layout.shards)])


def _make(
    context: StepContext,
    job: PackJob,
    layout: Layout,
    files: Sequence[Path],
    rank: npt.NDArray[np.int64],
    seals: Seals,
) -> None:
    """Make and commit the shards that are missing."""
    # A folder of its own, because another run of this step may work on the same machine.
    buckets = tempfile.mkdtemp(prefix="buckets-", dir=context.work())
    paths = deal(files, rank, layout, Path(buckets))
    done, rejected = sum(layout.size(number) for number in seals), rejects_of(seals.values())
    made = set(seals)
    missing = [number for number in range(layout.shards) if number not in made]
    context.progress.update(done, layout.rows)
    pieces = ((job, number, records) for number, records in shards(paths, layout) if number not in made)
    with workers_for(layout.rows - done, RAY_FROM) as workers:
        for number, seal in zip(missing, ordered(workers, build_shard, pieces), strict=True):
            seals[number] = seal
            done += layout.size(number)
            rejected += rejects_of([seal])
            context.progress.update(done, layout.rows, rejected=rejected.total())
            if exceeds(rejected, layout.rows, context.locations.max_reject_share):
                _check(context, layout, seals)
    shutil.rmtree(buckets, ignore_errors=True)


def _check(context: StepContext, layout: Layout, seals: Seals) -> None:
    """Raise DataError if the rejects of these shards exceed the reject limit."""
    details = (detail for _, _, detail in rejected_rows(seals[number] for number in sorted(seals)))
    check_reject_limit(
        f"records of pack-{context.inputs['inventory'].ref.name}",
        rejects_of(seals.values()),
        layout.rows,
        context.locations.max_reject_share,
        f"The first: {next(details, '')}\n"
        "Correct the records or pack.max_tokens in the recipe, or allow more with max_reject_share.",
    )


def _outcome(context: StepContext, layout: Layout, seals: list[Seal]) -> Outcome:
    """Count every record, and commit the table of rejects."""
    statistics: Counter[str] = Counter()
    for seal in seals:
        statistics.update(seal.facts["statistics"])
    summary = context.staging.commit_rejects(rejected_rows(seals), seals)
    counts = Counts(
        unit=context.step.unit,
        rows_in=layout.rows,
        rows_out=sum(seal.rows for seal in seals),
        rejected=dict(rejects_of(seals)),
    )
    return Outcome(counts, {**statistics, "shards": layout.shards}, seals=[*seals, summary])
