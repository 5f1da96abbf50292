"""pack: tokenize conversations and put images and tokens into shards, in a seeded random order.

The order and every shard's content follow from the records' ids, the seed and the parameters, so shards can be made in
any order, by any number of workers, and again after a crash.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.manifest import Counts
from pipeline.budget import check_budget, exceeds
from pipeline.packing.chat import open_chat, tokenizer_folder
from pipeline.packing.shards import Note, ShardJob, build_shard, read_note
from pipeline.packing.shuffle import Layout, deal, ranks, shards
from pipeline.schemas import part_name
from pipeline.sources.opening import image_root
from pipeline.steps.context import Outcome, StepContext, of_inputs
from pipeline.steps.params import PackParams
from pipeline.workers import ordered, workers_for

RAY_FROM = 10000  # records; for fewer, starting Ray's workers takes longer than they save


def run(context: StepContext) -> Outcome:
    """Make the pack of one data set. Raises ConfigError, DataError or StepError."""
    params = context.params(PackParams)
    inventory = context.inputs["inventory"]
    tokenizer = tokenizer_folder(context.site.weights["text"])
    open_chat(tokenizer, params.pack.system_prompt)  # says now what is wrong with it
    folder = context.input_path("inventory")
    files = [folder / name for name in inventory.matching("records/", ".parquet")]
    rank = ranks(files, params.seed)
    layout = Layout(len(rank), params.pack.shard_rows)
    job = ShardJob(
        store=context.site.root,
        folder=f"staging/{context.job.ref.id}/{of_inputs(context.inputs)}/shards",
        count=layout.shards,
        dataset=inventory.ref.name,
        images=image_root(context.site, inventory.ref.name),
        tokenizer=tokenizer,
        config=params.pack,
    )
    committed = ((number, read_note(job, number, layout.size(number))) for number in range(layout.shards))
    notes = {number: note for number, note in committed if note is not None}
    _check(context.site.max_reject_share, job, layout, notes)
    if len(notes) < layout.shards:
        _make(context, params, job, layout, files, rank, notes)
    return _publish(context, job, layout, notes)


def _make(
    context: StepContext,
    params: PackParams,
    job: ShardJob,
    layout: Layout,
    files: Sequence[Path],
    rank: npt.NDArray[np.int64],
    notes: dict[int, Note],
) -> None:
    """Make the shards that are not committed yet, and fill in their notes."""
    buckets = context.work() / "buckets"
    paths = deal(files, rank, layout, buckets)
    done, rejected = sum(layout.size(number) for number in notes), reasons(notes.values())
    missing = [number for number in range(layout.shards) if number not in notes]
    if notes:
        print(f"{len(notes)} of {layout.shards} shards were committed by an earlier run", flush=True)
    context.progress.update(done, layout.rows)
    pieces = ((job, number, records) for number, records in shards(paths, layout) if number not in notes)
    with workers_for(layout.rows - done, RAY_FROM) as workers:
        for number, note in zip(missing, ordered(workers, build_shard, pieces), strict=True):
            notes[number] = note
            done += layout.size(number)
            rejected += reasons([note])
            context.progress.update(done, layout.rows, rejected=rejected.total())
            if exceeds(rejected, layout.rows, context.site.max_reject_share):
                _check(context.site.max_reject_share, job, layout, notes)
    shutil.rmtree(buckets, ignore_errors=True)


def reasons(notes: Iterable[Note]) -> Counter[str]:
    """Rejects by reason."""
    return Counter(reason for note in notes for _, reason, _ in note["rejects"])


def _check(share: float, job: ShardJob, layout: Layout, notes: dict[int, Note]) -> None:
    """Fail if these shards reject too much."""
    details = (detail for _, note in sorted(notes.items()) for _, _, detail in note["rejects"])
    check_budget(
        f"records of pack-{job.dataset}",
        reasons(notes.values()),
        layout.rows,
        share,
        f"The first: {next(details, '')}\n"
        "Correct the records or pack.max_tokens in the recipe, or allow more with max_reject_share.",
    )


def _publish(context: StepContext, job: ShardJob, layout: Layout, notes: dict[int, Note]) -> Outcome:
    """Take the commits into the artifact and account for every record."""
    ordered_notes = [notes[number] for number in range(layout.shards)]
    statistics: Counter[str] = Counter()
    for number, note in enumerate(ordered_notes):
        context.staging.adopt(context.store.join(job.path(number)), part_name(number, layout.shards))
        statistics.update(note["statistics"])
    context.staging.write_rejects([(i, why, detail) for note in ordered_notes for i, why, detail in note["rejects"]])
    if not context.store.is_local:  # a local work folder is removed by the runner
        context.store.fs.rm(context.store.join(job.folder), recursive=True)
    counts = Counts(
        unit=context.step.unit,
        rows_in=layout.rows,
        rows_out=sum(note["rows"] for note in ordered_notes),
        rejected=dict(reasons(ordered_notes)),
    )
    return Outcome(counts, {**statistics, "shards": layout.shards})
