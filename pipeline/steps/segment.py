"""segment: Florence-2 and SAM on every query of a subset; raw evidence, ungated (DESIGN section 4)."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import short
from pipeline.budget import check_budget, exceeds
from pipeline.masks.setup import TeacherSetup
from pipeline.masks.shards import Commits, Fault, commit, cut, facts_of, read_part, read_parts
from pipeline.masks.statistics import distribution
from pipeline.ray_session import session
from pipeline.schemas import EVIDENCE, QUERIES, part_name
from pipeline.sources.opening import image_root
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.params import SegmentParams

Faults = dict[int, list[Fault]]  # of each committed shard


def run(context: StepContext) -> Outcome:
    """Segment every shard that is not committed yet, then publish all of them in order.

    Raises StepError if Ray gives up, and DataError if too many queries are errors ('no region' is an answer).
    """
    params = context.params(SegmentParams)
    queries = read_parts(context.input_path("subset"), QUERIES, "queries")
    shards = cut(queries, params.teacher.shard_images)
    commits = Commits(context.work() / "shards", shards)
    faults = _committed(commits, shards, context.site.max_reject_share)
    if faults:
        print(f"{len(faults)} of {len(shards)} shards were committed by an earlier run", flush=True)
    _compute(context, params, commits, shards, faults)
    name = context.inputs["inventory"].ref.name
    check_budget(
        f"queries of segment-{name}",
        reasons(faults),
        len(queries),
        context.site.max_reject_share,
        f"The first: {next((fault[2] for _, own in sorted(faults.items()) for fault in own), '')}\n"
        "Correct the cause and run again, which repeats only the shards with errors, or allow more with "
        f'max_reject_share. If images were changed on purpose, force = ["inventory-{name}"] looks at them again.',
    )
    return _publish(context, commits, faults)


def reasons(faults: Faults) -> Counter[str]:
    """Errors by the name of their reason."""
    return Counter(name for own in faults.values() for _, name, _ in own)


def _committed(commits: Commits, shards: Sequence[pa.Table], share: float) -> Faults:
    """The shards that an earlier run committed. If it failed for too many errors, those with errors are dropped."""
    missing = set(commits.missing())
    faults = {index: commits.faults(index) for index in range(len(shards)) if index not in missing}
    if exceeds(reasons(faults), sum(len(shard) for shard in shards), share):
        for index in [index for index, own in faults.items() if own]:
            commits.drop(index)
            del faults[index]
    return faults


def _compute(
    context: StepContext, params: SegmentParams, commits: Commits, shards: Sequence[pa.Table], faults: Faults
) -> None:
    """Commit every shard and note its errors; stops when there are too many."""
    for index, shard in enumerate(shards):
        if index not in faults and not len(shard):
            commit(commits.path(index), EVIDENCE.empty_table(), {"shard": index})
            faults[index] = []
    total = sum(len(shard) for shard in shards)
    done = sum(len(shards[index]) for index in faults)
    context.progress.update(done, total)
    if done == total:
        return
    root, errors = image_root(context.site, context.inputs["inventory"].ref.name), reasons(faults)
    with session():
        from pipeline.masks.stream import segment_missing  # Ray Data takes seconds to import

        for shard in segment_missing(commits, shards, root, _setup(context, params), context.resources):
            done += shard.rows
            faults[shard.shard] = commits.faults(shard.shard) if shard.errors else []
            errors += reasons({shard.shard: faults[shard.shard]})
            context.progress.update(done, total, errors=errors.total(), shard_seconds=shard.seconds)
            if exceeds(errors, total, context.site.max_reject_share):
                break  # which ends the stream, for nothing else holds it


def _setup(context: StepContext, params: SegmentParams) -> TeacherSetup:
    weights, resources = context.site.weights, context.resources
    return TeacherSetup(
        florence=weights["florence"],
        sam=weights["sam"],
        name=f"florence-2 {short(params.florence)} + sam {short(params.sam)}",
        config=params.teacher,
        device="cuda" if resources.gpus > 0 else "cpu",
        threads=resources.threads,
    )


def _publish(context: StepContext, commits: Commits, faults: Faults) -> Outcome:
    """Copy the commits into the artifact and account for every row."""
    count = len(faults)
    statuses: Counter[str] = Counter()
    devices: set[str] = set()
    scores: list[float | None] = []
    instances: list[dict[str, Any]] = []
    for index in range(count):
        table = read_part(commits.path(index), EVIDENCE)
        devices.add(facts_of(commits.path(index)).get("device", ""))
        statuses.update(table["status"].to_pylist())
        scores += table["polygon_score"].to_pylist()
        instances += [
            {name: instance[name] for name in ("sam_iou", "agreement_iou")}
            for own in table["instances"].to_pylist()
            for instance in own
        ]
    rejects = [fault for index in range(count) for fault in faults[index]]
    total = sum(statuses.values())
    for index in range(count):
        context.staging.add_file(commits.path(index), part_name(index, count))
    context.staging.write_rejects(rejects)
    statistics = {
        "status": dict(sorted(statuses.items())),
        "shards": count,
        "instances": len(instances),
        "polygon_score": distribution(scores),
        "sam_iou": distribution(item["sam_iou"] for item in instances),
        "agreement_iou": distribution(item["agreement_iou"] for item in instances),
    }
    counts = Counts(
        unit=context.step.unit,
        rows_in=total,
        rows_out=total - statuses["error"],
        rejected=dict(sorted(reasons(faults).items())),
    )
    return Outcome(counts, statistics, ", ".join(sorted(devices - {""})) or "cpu")
