"""The argument and the return value of a step's `run` function: StepContext and Outcome."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.progress import Progress
from pipeline.artifacts.shards import Seal
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.compute.resources import Resources
from pipeline.config import Config, validate
from pipeline.plan.job import JobSpec
from pipeline.plan.locations import Locations
from pipeline.plan.step_table import Step
from pipeline.sources.images.store import ImageStore
from pipeline.sources.table import DataSet

Params = TypeVar("Params", bound=Config)


@dataclass(frozen=True)
class Outcome:
    """The counts and statistics that the runner publishes with a step's files.

    seals: the shards of the artifact; none if the step wrote into its private folder.
    """

    counts: Counts
    statistics: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    seals: Sequence[Seal] = ()


@dataclass(frozen=True)
class StepContext:
    """The parameters, inputs, store and staging of a running step."""

    job: JobSpec
    step: Step
    store: ArtifactStore
    inputs: dict[str, Artifact]
    staging: Staging
    progress: Progress

    @property
    def locations(self) -> Locations:
        """Raw data, weights and scratch space."""
        return self.job.locations

    def dataset(self, name: str) -> DataSet:
        """A raw data set. Can be sent to workers. Raises ConfigError."""
        return DataSet(self.locations.source(name), Path(self.locations.scratch))

    def images(self, inventory: str = "inventory") -> ImageStore:
        """The images of the data set of an input inventory. Can be sent to workers."""
        return self.images_of(self.inputs[inventory])

    def images_of(self, artifact: Artifact) -> ImageStore:
        """The images of the data set of an inventory. Can be sent to workers. Raises ConfigError."""
        return replace(self.dataset(artifact.ref.name), kept=artifact.location()).images()

    @property
    def resources(self) -> Resources:
        """CPUs, GPUs, workers and threads that the step may use."""
        return self.job.resources

    def params(self, kind: type[Params]) -> Params:
        """The step's parameters as their model."""
        return validate(kind, self.job.spec.params, f"parameters of {self.job.key}")

    @property
    def cache(self) -> Path:
        """Local folder for files that are downloaded from the store."""
        return Path(self.locations.scratch) / "cache"

    def input_path(self, name: str, prefix: str = "") -> Path:
        """Local folder with an input's data files, at least those whose paths start with `prefix`."""
        return self.inputs[name].local(self.cache, prefix)

    def work(self) -> Path:
        """A local folder for temporary files of this step; removed after publishing. Not visible to other machines."""
        folder = work_folder(self.job)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def work_folder(job: JobSpec) -> Path:
    """The local folder of a step's temporary files."""
    return Path(job.locations.scratch) / "work" / job.ref.id
