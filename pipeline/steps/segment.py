"""segment: a teacher on every query of a subset; raw evidence, not gated yet."""

from collections import Counter
from collections.abc import Mapping
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import ConfigError, DataError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.shards import Seal, Shards
from pipeline.artifacts.spec import short
from pipeline.compute.metrics import tags_of
from pipeline.compute.session import session
from pipeline.masks.actors import SegmentWork
from pipeline.masks.attempts import Attempts
from pipeline.masks.config import TeacherSetup
from pipeline.masks.parts import cut, evidence_bytes, read_parts, shard_name
from pipeline.masks.poison import POISON, Poison
from pipeline.masks.statistics import SUMMARY_COLUMNS, EvidenceSummary
from pipeline.masks.teachers.table import teacher_kind
from pipeline.masks.watch import Watch
from pipeline.plan.parameters import SegmentParams
from pipeline.schemas import EVIDENCE, QUERIES, SEGMENT_SPEED_FILE, part_name
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.reject_limit import check_reject_limit, earlier_commits, rejected_rows, rejects_of

TITLES = {"florence": "florence-2"}
"""Role of weights -> name of the model in rows of evidence, where it is another."""
Seals = dict[int, Seal]
"""Number of a shard -> its commit."""


def run(context: StepContext) -> Outcome:
    """Segment every shard that is not committed yet, and return all of them in order.

    Raises StepError if Ray fails, and DataError if too many queries have an error ('no_region' is not an error).
    """
    params = context.params(SegmentParams)
    queries = read_parts(context.input_path("subset"), QUERIES, "queries")
    pieces = cut(queries, params.teacher.shard_images)
    shards = context.staging.shards()
    names = [shard_name(index, len(pieces)) for index in range(len(pieces))]
    seals = earlier_commits(shards, names, len(queries), context.locations.max_reject_share)
    for index, piece in enumerate(pieces):
        if index not in seals and not len(piece):
            seals[index] = _commit_empty(shards, index, len(pieces))
    watch = Watch(context.progress, len(queries), seals.values())
    missing = {index: piece for index, piece in enumerate(pieces) if index not in seals}
    if missing:
        _compute(context, _work(context, params, shards, len(pieces)), missing, seals, watch)
    _check(context, seals, len(queries))
    return _outcome(context, shards, [seals[index] for index in range(len(pieces))], len(queries), watch)


def _compute(
    context: StepContext, work: SegmentWork, missing: Mapping[int, pa.Table], seals: Seals, watch: Watch
) -> None:
    """Commit the missing shards. Raises DataError as soon as the errors exceed the reject limit."""
    poison = Poison(context.staging.work_shards(POISON), work.attempts)
    try:
        with session():
            from pipeline.compute.gauges import Gauges
            from pipeline.masks.stream import segment_shards  # Ray Data takes seconds to import

            watch.gauges = Gauges("segment", work.tags).set
            context.progress.begin()
            stream = segment_shards(
                work,
                missing,
                poison,
                context.resources,
                lambda found: _check(context, seals, watch.total, Counter({POISON: found})),
            )
            with closing(stream):  # Ray stops it when nothing refers to it
                for shard in stream:
                    seals[shard.index] = shard.seal
                    watch.add(shard.seal)
                    if shard.seal.facts["rejects"]:  # other shards cannot exceed the limit
                        _check(context, seals, watch.total)
    except DataError:
        poison.forget()  # the user corrects the cause, or allows more rejects
        raise


def _check(context: StepContext, seals: Seals, total: int, others: Counter[str] | None = None) -> None:
    """Raise DataError if too many queries have an error. others: reason -> errors that are not committed."""
    name = context.inputs["inventory"].ref.name
    details = (detail for _, _, detail in rejected_rows(seals[number] for number in sorted(seals)))
    check_reject_limit(
        f"queries of segment-{name}",
        rejects_of(seals.values()) + (others or Counter()),
        total,
        context.locations.max_reject_share,
        f"The first: {next(details, '')}\n"
        "Correct the cause and run again, which repeats only the shards with errors, or allow more with "
        f'max_reject_share. If images were changed on purpose, force = ["inventory-{name}"] looks at them again.',
    )


def _commit_empty(shards: Shards, index: int, count: int) -> Seal:
    content = evidence_bytes(EVIDENCE.empty_table(), {"shard": index})
    return shards.commit(shard_name(index, count), {part_name(index, count): content}, 0, {"rejects": [], "device": ""})


def _setup(context: StepContext, params: SegmentParams) -> TeacherSetup:
    """The teacher of the step. Raises ConfigError if it needs ground truth and the data set has none."""
    resources, kind = context.resources, teacher_kind(params.teacher.kind)
    checksums = {role: str(getattr(params, role)) for role in kind.weights}
    truth: list[str] = []
    if kind.needs_truth:
        inventory = context.inputs["inventory"]
        truth = [inventory.path(file) for file in inventory.matching("truth/", ".parquet")]
        if not truth:
            raise ConfigError(
                f"teacher.kind = '{params.teacher.kind}', but the data set '{inventory.ref.name}' has no ground truth: "
                f"{inventory.ref} holds no truth/. Use the teacher florence_sam, or a source with masks (docs/data.md)"
            )
    return TeacherSetup(
        weights={role: context.locations.weights_of(role) for role in kind.weights},
        name=" + ".join(f"{TITLES.get(r, r)} {short(c)}" for r, c in checksums.items()) or params.teacher.kind,
        config=params.teacher,
        device="cuda" if resources.gpus > 0 and kind.weights else "cpu",
        threads=resources.threads,
        truth=truth,
        store=context.store,
    )


def _work(context: StepContext, params: SegmentParams, shards: Shards, count: int) -> SegmentWork:
    """The work of the step's processes. Raises ConfigError if a teacher of one phase shall have two pools."""
    kind = teacher_kind(params.teacher.kind)
    if context.resources.second_pool is not None and len(kind.phases) < 2:
        raise ConfigError(
            f"resources.segment.second_pool: teacher.kind = '{params.teacher.kind}' has one phase; remove second_pool"
        )
    return SegmentWork(
        shards=shards,
        count=count,
        images=context.images(),
        setup=_setup(context, params),
        attempts=Attempts(context.store, context.staging.work_shards("attempts").folder),
        phases=kind.phases,
        carried=kind.carried,
        needs_pixels=kind.needs_pixels,
        tags=tags_of(context.job.recipe, context.job.key, context.job.ref.id),
    )


def _outcome(context: StepContext, shards: Shards, seals: list[Seal], rows_in: int, watch: Watch) -> Outcome:
    """Count every row, summarise the evidence, and commit the table of rejects."""
    evidence = EvidenceSummary()
    # Read back from the committed files, because an earlier run may have made some of the shards.
    for seal in seals:
        with context.store.fs.open(shards.path(seal.files[0].path), "rb") as stream:
            table = pq.ParquetFile(stream).read(columns=list(SUMMARY_COLUMNS))
        for row in table.to_pylist():
            evidence.add(row)
    statuses = evidence.statuses
    summary = context.staging.commit_rejects(rejected_rows(seals), seals)
    speed = context.staging.commit_summary("speed", {SEGMENT_SPEED_FILE: watch.speed()}, seals)
    statistics = {"shards": len(seals), **evidence.summary()}
    counts = Counts(
        unit=context.step.unit,
        rows_in=rows_in,
        rows_out=statuses.total() - statuses["error"],
        rejected=dict(sorted(rejects_of(seals).items())),
    )
    devices = {str(seal.facts["device"]) for seal in seals} - {""}
    return Outcome(counts, statistics, ", ".join(sorted(devices)) or "cpu", seals=[*seals, summary, speed])
