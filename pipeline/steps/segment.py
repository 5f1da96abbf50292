"""segment: Florence-2 and SAM on every query of a subset; raw evidence, not gated yet."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.shards import Seal, Shards
from pipeline.artifacts.spec import short
from pipeline.compute.session import session
from pipeline.masks.config import TeacherSetup
from pipeline.masks.parts import cut, evidence_bytes, read_parts, shard_name
from pipeline.masks.statistics import distribution
from pipeline.plan.parameters import SegmentParams
from pipeline.schemas import EVIDENCE, QUERIES, part_name
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.reject_limit import check_reject_limit, earlier_commits, exceeds, rejected_rows, rejects_of

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
    _compute(context, params, shards, pieces, seals)
    name = context.inputs["inventory"].ref.name
    details = (detail for _, _, detail in rejected_rows(seals[number] for number in sorted(seals)))
    check_reject_limit(
        f"queries of segment-{name}",
        rejects_of(seals.values()),
        len(queries),
        context.locations.max_reject_share,
        f"The first: {next(details, '')}\n"
        "Correct the cause and run again, which repeats only the shards with errors, or allow more with "
        f'max_reject_share. If images were changed on purpose, force = ["inventory-{name}"] looks at them again.',
    )
    return _outcome(context, shards, [seals[index] for index in range(len(pieces))], len(queries))


def _compute(
    context: StepContext, params: SegmentParams, shards: Shards, pieces: Sequence[pa.Table], seals: Seals
) -> None:
    """Commit every missing shard. Stops early when the errors exceed the reject limit; `run` raises then."""
    for index, piece in enumerate(pieces):
        if index not in seals and not len(piece):
            seals[index] = _commit_empty(shards, index, len(pieces))
    total = sum(len(piece) for piece in pieces)
    done = sum(len(pieces[index]) for index in seals)
    context.progress.update(done, total)
    if done == total:
        return
    images, errors = context.images(), rejects_of(seals.values())
    missing = {index: piece for index, piece in enumerate(pieces) if index not in seals}
    with session():
        from pipeline.masks.stream import segment_shards  # Ray Data takes seconds to import

        for shard in segment_shards(shards, missing, len(pieces), images, _setup(context, params), context.resources):
            done += shard.seal.rows
            seals[shard.index] = shard.seal
            errors += rejects_of([shard.seal])
            context.progress.update(done, total, errors=errors.total(), shard_seconds=shard.seconds)
            if exceeds(errors, total, context.locations.max_reject_share):
                break  # nothing else refers to the stream, so Ray stops it


def _commit_empty(shards: Shards, index: int, count: int) -> Seal:
    content = evidence_bytes(EVIDENCE.empty_table(), {"shard": index})
    return shards.commit(shard_name(index, count), {part_name(index, count): content}, 0, {"rejects": [], "device": ""})


def _setup(context: StepContext, params: SegmentParams) -> TeacherSetup:
    resources = context.resources
    return TeacherSetup(
        florence=context.locations.weights_of("florence"),
        sam=context.locations.weights_of("sam"),
        name=f"florence-2 {short(params.florence)} + sam {short(params.sam)}",
        config=params.teacher,
        device="cuda" if resources.gpus > 0 else "cpu",
        threads=resources.threads,
    )


def _outcome(context: StepContext, shards: Shards, seals: list[Seal], rows_in: int) -> Outcome:
    """Count every row, summarise the evidence, and commit the table of rejects."""
    statuses: Counter[str] = Counter()
    scores: list[float | None] = []
    ious: dict[str, list[float | None]] = {"sam_iou": [], "agreement_iou": []}
    # Read back from the committed files, because an earlier run may have made some of the shards.
    for seal in seals:
        with context.store.fs.open(shards.path(seal.files[0].path), "rb") as stream:
            table = pq.read_table(stream, columns=["status", "polygon_score", "instances"])
        statuses.update(table["status"].to_pylist())
        scores += table["polygon_score"].to_pylist()
        for instance in (instance for own in table["instances"].to_pylist() for instance in own):
            for name, values in ious.items():
                values.append(instance[name])
    summary = context.staging.commit_rejects(rejected_rows(seals), seals)
    statistics = {
        "status": dict(sorted(statuses.items())),
        "shards": len(seals),
        "instances": len(ious["sam_iou"]),
        "polygon_score": distribution(scores),
        **{name: distribution(values) for name, values in ious.items()},
    }
    counts = Counts(
        unit=context.step.unit,
        rows_in=rows_in,
        rows_out=statuses.total() - statuses["error"],
        rejected=dict(sorted(rejects_of(seals).items())),
    )
    devices = {str(seal.facts["device"]) for seal in seals} - {""}
    return Outcome(counts, statistics, ", ".join(sorted(devices)) or "cpu", seals=[*seals, summary])
