"""What a step is given, what it gives back, and the runner that turns one into the other."""

import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from model.errors import ArtifactError, StepError
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.config import Config, validate
from pipeline.job import JobSpec
from pipeline.progress import Progress
from pipeline.recipe import Resources
from pipeline.site import Site
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
        folder = work_folder(self.job)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def work_folder(job: JobSpec) -> Path:
    """Where a step keeps what it has committed so far."""
    root = job.site.root if "://" not in job.site.root else job.site.scratch
    return Path(root) / "staging" / job.ref.id


def run_job(job: JobSpec) -> Artifact:
    """Run one step and publish its artifact; if the artifact exists already, return it and run nothing.

    Raises StepError, DataError, ConfigError or ArtifactError with a message for people.
    """
    step = STEPS[job.spec.step]
    if step.revision != job.spec.revision:
        raise StepError(f"{job.key} was planned for revision {job.spec.revision}, but this code has {step.revision}")
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
        outcome = entry_point(step)(context)
        artifact = staging.publish(outcome.counts, outcome.statistics, outcome.device)
    except BaseException:
        staging.discard()
        raise
    if artifact.manifest.data not in staging.base:
        staging.discard()
    shutil.rmtree(work_folder(job), ignore_errors=True)
    return artifact


def entry_point(step: Step) -> Callable[[StepContext], Outcome]:
    """Import a step's code."""
    module, function = step.entry.split(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
