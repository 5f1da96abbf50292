"""Runs one step and publishes its artifact. `python -m pipeline run` calls this in a Ray job."""

import importlib
import shutil
import time
from collections.abc import Callable

from model.errors import ArtifactError, ConfigError, DataError, StepError
from pipeline.artifacts.progress import Progress
from pipeline.artifacts.room import check_room
from pipeline.artifacts.spec import ArtifactRef
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.compute.collection import collection_paused
from pipeline.compute.metrics import tags_of
from pipeline.compute.step_gauges import StepGauges
from pipeline.plan.job import JobSpec
from pipeline.plan.step_table import STEPS, Step
from pipeline.steps.context import Outcome, StepContext, work_folder
from pipeline.steps.input_check import RAW, check_planned


def run_job(job: JobSpec) -> Artifact:
    """Run one step and publish its artifact; if the artifact exists already, return it and run nothing.

    If another process publishes the artifact while the step runs, that one is returned, even if this run failed.
    Raises StepError, DataError, ConfigError or ArtifactError with a message for people.
    """
    job.check()
    step = _step(job)
    store = ArtifactStore(job.locations.root)
    existing = store.get(job.ref)
    if existing is not None:
        return existing
    check_room(job.locations.root, job.locations.scratch, job.writes)
    inputs = {name: store.require(ref) for name, ref in job.inputs.items()}
    for name, artifact in inputs.items():
        expected = step.input_kind(name)
        if artifact.ref.kind != expected:
            raise ArtifactError(f"{job.key}: input '{name}' must be of kind {expected}, but is {artifact.ref}")
    made_by = (job.git_commit, job.submission_id, job.origin)
    staging = Staging(store, job.ref, job.spec, job.attempt, inputs, *made_by)
    waited = None if job.submitted is None else max(0.0, time.time() - job.submitted)
    gauges = StepGauges(tags_of(job.recipe, job.key, job.ref.id), step.unit, waited)
    context = StepContext(job, step, store, inputs, staging, Progress(store, job.ref.id, step.unit, gauges))
    try:
        outcome = _perform(context)
        context.progress.rejects(outcome.counts.rejected)
        artifact = staging.publish(outcome.counts, outcome.statistics, outcome.device, outcome.seals)
    except BaseException as error:
        staging.discard()
        published = _published(store, job.ref) if isinstance(error, Exception) else None
        if published is None:
            raise
        print(f"{job.ref} is published, by another process or before this error: {error}", flush=True)
        artifact = published
    staging.discard()  # the artifact is made of shards, or by another process
    staging.remove_work()
    shutil.rmtree(work_folder(job), ignore_errors=True)
    return artifact


def _step(job: JobSpec) -> Step:
    """The row of the step table. Raises ConfigError if there is none, StepError if it has another revision."""
    step = STEPS.get(job.spec.step)
    if step is None or step.kind != job.ref.kind:
        known = ", ".join(f"{s.name} makes {s.kind}" for s in STEPS.values())
        raise ConfigError(f"{job.key}: no step '{job.spec.step}' makes an artifact of kind {job.ref.kind}; {known}")
    if step.revision != job.spec.revision:
        planned, here = job.spec.revision, step.revision
        raise StepError(f"{job.key} was planned for revision {planned}, but this code has {here}; plan it again")
    return step


def _perform(context: StepContext) -> Outcome:
    """Run a step's code, and check raw data and weights against the plan: both before it, raw data also after it."""
    check_planned(context.job)
    try:
        outcome = entry_point(context.step)(context)
    except Exception:
        # Raw data is read while the step runs, so only a check afterwards shows that it was the planned data. If it
        # changed, DataError is raised in place of the step's error, which may be a consequence.
        _check_raw(context)
        raise
    _check_raw(context)
    return outcome


def _check_raw(context: StepContext) -> None:
    """Raise DataError if raw data changed since planning. Removes committed shards first: they may hold other data."""
    try:
        check_planned(context.job, frozenset({RAW}))
    except DataError:
        context.staging.drop_shards()
        raise


def _published(store: ArtifactStore, ref: ArtifactRef) -> Artifact | None:
    """The published artifact; None if there is none, if it cannot be read, or if a file does not match its manifest."""
    try:
        artifact = store.get(ref)
    except (ArtifactError, OSError) as error:
        print(f"{ref} cannot be looked up: {error}", flush=True)
        return None
    return artifact if artifact is not None and not artifact.verify() else None


def entry_point(step: Step) -> Callable[[StepContext], Outcome]:
    """Import the function that runs a step."""
    module, function = step.entry.split(":")
    with collection_paused():
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
