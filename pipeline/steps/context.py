"""What a step is given, what it gives back, and the runner that turns one into the other."""

import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from model.errors import ArtifactError, ConfigError, DataError, StepError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, digest, short
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.config import Config, validate
from pipeline.job import JobSpec
from pipeline.progress import Progress
from pipeline.recipe import Resources
from pipeline.site import Site
from pipeline.steps.outside import RAW, check_planned
from pipeline.steps.table import STEPS, Step

Params = TypeVar("Params", bound=Config)


@dataclass(frozen=True)
class Outcome:
    """What a step says of itself when it is done; the runner publishes its files with this."""

    counts: Counts
    statistics: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"


@dataclass(frozen=True)
class StepContext:
    """Everything that a step may use."""

    job: JobSpec
    step: Step
    store: ArtifactStore
    inputs: dict[str, Artifact]
    staging: Staging
    progress: Progress

    @property
    def site(self) -> Site:
        """Locations outside the store."""
        return self.job.site

    @property
    def resources(self) -> Resources:
        """CPUs, GPUs, workers and threads that the step may use."""
        return self.job.resources

    def params(self, kind: type[Params]) -> Params:
        """The step's parameters as their model."""
        return validate(kind, self.job.spec.params, f"parameters of {self.job.key}")

    def input_path(self, name: str) -> Path:
        """Local folder of an input's data files."""
        return self.inputs[name].local(Path(self.site.scratch) / "cache")

    def work(self) -> Path:
        """A local folder that outlives a crash of this step: shard commits go here. Removed after publishing."""
        folder = commits_folder(self.job, self.inputs)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def work_folder(job: JobSpec) -> Path:
    """Where a step keeps what it has committed so far, of whatever inputs."""
    root = job.site.root if "://" not in job.site.root else job.site.scratch
    return Path(root) / "staging" / job.ref.id


def commits_folder(job: JobSpec, inputs: dict[str, Artifact]) -> Path:
    """Where it keeps what it has committed of these very inputs."""
    return work_folder(job) / of_inputs(inputs)


def of_inputs(inputs: dict[str, Artifact]) -> str:
    """A name for these very inputs: one that was made again, and came out otherwise under the same id, has another."""
    return short(digest({name: artifact.manifest.content_sha256 for name, artifact in inputs.items()}))


def run_job(job: JobSpec) -> Artifact:
    """Run one step and publish its artifact; if the artifact exists already, return it and run nothing.

    If another process publishes it while the step runs, that one is returned, even if the step failed over it.
    Raises StepError, DataError, ConfigError or ArtifactError with a message for people.
    """
    job.check()
    step = _step(job)
    store = ArtifactStore(job.site.root)
    existing = store.get(job.ref)
    if existing is not None:
        return existing
    inputs = {name: store.require(ref) for name, ref in job.inputs.items()}
    for name, artifact in inputs.items():
        expected = step.inputs.get(name.split("/")[0])
        if artifact.ref.kind != expected:
            raise ArtifactError(f"{job.key}: input '{name}' must be of kind {expected}, but is {artifact.ref}")
    submission = os.environ.get("AGEVLM_SUBMISSION_ID")
    staging = Staging(store, job.ref, job.spec, job.attempt, inputs, job.git_commit, submission)
    context = StepContext(job, step, store, inputs, staging, Progress(store, job.ref.id, step.unit))
    try:
        outcome = _perform(context)
        artifact = staging.publish(outcome.counts, outcome.statistics, outcome.device)
    except BaseException as error:
        staging.discard()
        first = _published_meanwhile(store, job.ref) if isinstance(error, Exception) else None
        if first is None:
            raise
        print(f"{job.ref} was published by another process meanwhile; this one failed: {error}", flush=True)
        artifact = first
    if artifact.manifest.data not in staging.base:
        staging.discard()
    shutil.rmtree(work_folder(job), ignore_errors=True)
    return artifact


def _step(job: JobSpec) -> Step:
    """The row of the step table. Raises ConfigError if there is none, StepError if it has another revision."""
    step = STEPS.get(job.spec.step)
    if step is None or step.kind != job.ref.kind:
        known = ", ".join(f"{s.name} makes {s.kind}" for s in STEPS.values())
        raise ConfigError(f"{job.key}: no step '{job.spec.step}' makes an artifact of kind {job.ref.kind}; {known}")
    if step.revision != job.spec.revision:
        raise StepError(f"{job.key} was planned for revision {job.spec.revision}, but this code has {step.revision}")
    return step


def _perform(context: StepContext) -> Outcome:
    """Run a step's code on what was planned.

    Raw data are checked again after it, for it is then that they were read; a step that failed because they changed
    says so. What the step committed may be of other data then, and goes.
    """
    job = context.job
    check_planned(job)
    try:
        outcome = entry_point(context.step)(context)
    except Exception:
        _check_raw(job)
        raise
    _check_raw(job)
    return outcome


def _check_raw(job: JobSpec) -> None:
    try:
        check_planned(job, frozenset({RAW}))
    except DataError:
        shutil.rmtree(work_folder(job), ignore_errors=True)
        raise


def _published_meanwhile(store: ArtifactStore, ref: ArtifactRef) -> Artifact | None:
    """The artifact that another process published, if its files are what its manifest says."""
    artifact = store.get(ref)
    return artifact if artifact is not None and not artifact.verify() else None


def entry_point(step: Step) -> Callable[[StepContext], Outcome]:
    """Import a step's code."""
    module, function = step.entry.split(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
