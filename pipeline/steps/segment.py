"""segment: Florence-2 and SAM on every query of a subset; raw evidence, ungated (DESIGN section 4)."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from model.errors import StepError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import short
from pipeline.masks.setup import TeacherSetup
from pipeline.masks.shards import Commits, commit, cut, facts_of, read_part, read_parts
from pipeline.masks.statistics import distribution, reason_name
from pipeline.ray_session import session
from pipeline.schemas import EVIDENCE, QUERIES, part_name
from pipeline.sources.opening import image_root
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.params import SegmentParams

MAX_ERROR_SHARE = 0.1  # of the queries: more errors than this are a broken set-up, not odd rows


def run(context: StepContext) -> Outcome:
    """Segment every shard that is not committed yet, then publish all of them in order.

    Raises StepError if Ray gives up or if more than MAX_ERROR_SHARE of the queries are errors.
    """
    params = context.params(SegmentParams)
    queries = read_parts(context.input_path("subset"), QUERIES, "queries")
    shards = cut(queries, params.teacher.shard_images)
    commits = Commits(context.work() / "shards", shards)
    resumed = len(shards) - len(commits.missing())
    if resumed:
        print(f"{resumed} of {len(shards)} shards were committed by an earlier run", flush=True)
    _compute(context, params, commits, shards)
    return _publish(context, commits, len(shards))


def _compute(context: StepContext, params: SegmentParams, commits: Commits, shards: Sequence[pa.Table]) -> None:
    """Commit every shard."""
    total = sum(len(shard) for shard in shards)
    missing = commits.missing()
    done = total - sum(len(shards[index]) for index in missing)
    context.progress.update(done, total)
    for index in missing:
        if not len(shards[index]):
            commit(commits.path(index), EVIDENCE.empty_table(), {"shard": index})
    if done == total:
        return
    root = image_root(context.site, context.inputs["inventory"].ref.name)
    errors = 0
    with session():
        from pipeline.masks.stream import segment_missing  # Ray Data takes seconds to import

        for shard in segment_missing(commits, shards, root, _setup(context, params), context.resources):
            done, errors = done + shard.rows, errors + shard.errors
            context.progress.update(done, total, errors=errors, shard_seconds=shard.seconds)


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


def _publish(context: StepContext, commits: Commits, count: int) -> Outcome:
    """Copy the commits into the artifact and account for every row."""
    statuses: Counter[str] = Counter()
    devices: set[str] = set()
    rejects: list[tuple[str, str, str]] = []
    scores: list[float | None] = []
    instances: list[dict[str, Any]] = []
    faulty = []
    for index in range(count):
        table = read_part(commits.path(index), EVIDENCE)
        devices.add(facts_of(commits.path(index)).get("device", ""))
        rows = table.select(["sample_id", "turn", "query_kind", "status", "reason"]).to_pylist()
        statuses.update(row["status"] for row in rows)
        bad = [row for row in rows if row["status"] == "error"]
        faulty += [index] if bad else []
        rejects += [
            (f"{row['sample_id']}/{row['turn']}/{row['query_kind']}", reason_name(row["reason"]), row["reason"])
            for row in bad
        ]
        scores += table["polygon_score"].to_pylist()
        instances += [
            {name: instance[name] for name in ("sam_iou", "agreement_iou")}
            for own in table["instances"].to_pylist()
            for instance in own
        ]
    total = sum(statuses.values())
    if len(rejects) > MAX_ERROR_SHARE * total:
        for index in faulty:  # else a rerun would find the errors committed and never try these shards again
            commits.drop(index)
        names = Counter(name for _, name, _ in rejects).most_common(3)
        raise StepError(
            f"{len(rejects)} of {total} queries failed, more than {MAX_ERROR_SHARE:.0%}: "
            f"{', '.join(f'{name} {number} times' for name, number in names)}; the first: {rejects[0][2]}; "
            "correct the cause and run the step again, which repeats only the shards with errors"
        )
    for index in range(count):
        context.staging.add_file(Path(commits.path(index)), part_name(index, count))
    context.staging.write_rejects(rejects)
    statistics = {
        "status": dict(sorted(statuses.items())),
        "shards": count,
        "instances": len(instances),
        "polygon_score": distribution(scores),
        "sam_iou": distribution(item["sam_iou"] for item in instances),
        "agreement_iou": distribution(item["agreement_iou"] for item in instances),
    }
    rejected = dict(sorted(Counter(name for _, name, _ in rejects).items()))
    counts = Counts(unit=context.step.unit, rows_in=total, rows_out=total - len(rejects), rejected=rejected)
    return Outcome(counts, statistics, ", ".join(sorted(devices - {""})) or "cpu")
