"""Running single steps on small data as a Ray job does, without a plan."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.shards import Shards
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.compute.resources import Resources
from pipeline.plan.job import JobSpec
from pipeline.plan.locations import Locations
from pipeline.plan.step_table import STEPS
from pipeline.schemas import OVERLAP, part_name
from pipeline.sources.config import CambrianSource, Source, identity
from pipeline.steps.input_check import fingerprints_now
from pipeline.steps.runner import run_job


@dataclass
class Workshop:
    """A store, a source and weights."""

    folder: Path
    source: Source
    weights: dict[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    root: str = ""
    """Root of the store; '' for the folder 'store'."""

    @property
    def store(self) -> ArtifactStore:
        """The artifact store."""
        return ArtifactStore(self._root)

    @property
    def _root(self) -> str:
        return self.root or str(self.folder / "store")

    def run(self, step_name: str, params: dict[str, Any], **inputs: Artifact) -> Artifact:
        """Run one step and return its artifact."""
        return run_job(self.job(step_name, params, **inputs))

    def job(self, step_name: str, params: dict[str, Any], **inputs: Artifact) -> JobSpec:
        """The job of one step of the data set 'pretrain', with the current fingerprints.

        `max_reject_share` among the parameters is moved to the locations.
        """
        step, params = STEPS[step_name], dict(params)
        locations = Locations(
            root=self._root,
            scratch=str(self.folder / "scratch"),
            max_reject_share=params.pop("max_reject_share", 0.5),
            sources={"pretrain": self.source},
            weights=self.weights,
        )
        checked = step.params.model_validate(true_fingerprints(params, locations, "pretrain")).model_dump(mode="json")
        spec = StepSpec(
            step=step_name, revision=step.revision, params=checked, inputs={k: a.ref.id for k, a in inputs.items()}
        )
        return JobSpec(
            key=f"{step_name}-pretrain",
            spec=spec,
            ref=ArtifactRef(kind=step.kind, name="pretrain", id=spec.id()),
            inputs={name: artifact.ref for name, artifact in inputs.items()},
            locations=locations,
            resources=self.resources,
        )

    def inventory(self, **changes: Any) -> Artifact:
        """The inventory of the source."""
        params = {"limit": None, "fingerprint": "raw"}
        return self.run("inventory", {"source": identity(self.source), **params, **changes})

    def overlap(self, rows: list[tuple[str, str]]) -> Artifact:
        """A made-up comparison that lists these records of 'pretrain': id and kind."""
        spec = StepSpec(step="overlap", revision=1, params={"rows": rows}, inputs={})
        staging = Staging(self.store, ArtifactRef(kind="overlap", name="data", id=spec.id()), spec, 0, {})
        for number, row in enumerate(rows):  # a part each
            found = [dict(zip(OVERLAP.names, (*row, "another"), strict=True))]
            staging.write_table(part_name(number, len(rows), "pretrain"), pa.Table.from_pylist(found, schema=OVERLAP))
        staging.write_table(part_name(0, 1, "instruct"), OVERLAP.empty_table())
        return staging.publish(Counts(unit="record", rows_in=len(rows), rows_out=len(rows)))


def shards_of(job: JobSpec, made_from: str = "") -> Shards:
    """The shards of a job, on a local store."""
    store = ArtifactStore(job.locations.root)
    inputs = {name: store.require(ref) for name, ref in job.inputs.items()}
    return Staging(store, job.ref, job.spec, job.attempt, inputs).shards(made_from)


def damaged(shards: Shards, file: str, change: Callable[[bytes], bytes]) -> None:
    """Change a file of some shards without the commit protocol."""
    path = Path(shards.path(file))
    path.write_bytes(change(path.read_bytes()))


def true_fingerprints(params: dict[str, Any], locations: Locations, dataset: str) -> dict[str, Any]:
    """Parameters of a step with every fingerprint replaced by that of the current data and weights."""
    given = [name for name, value in params.items() if value is not None]
    return params | {name: now for name, _, now in fingerprints_now(given, locations, dataset)}


def table(artifact: Artifact, prefix: str = "part-") -> pa.Table:
    """All parts of a table of an artifact."""
    return pa.concat_tables([pq.read_table(artifact.path(file)) for file in artifact.matching(prefix, ".parquet")])


def rejects(artifact: Artifact) -> dict[str, list[str]]:
    """Details of the rejected rows by reason."""
    found: dict[str, list[str]] = {}
    for row in table(artifact, "rejects").to_pylist():
        found.setdefault(row["reason"], []).append(row["detail"])
    return found


def cambrian(folder: Path, lines: list[dict[str, Any] | str]) -> CambrianSource:
    """A Cambrian data set with these lines; the caller writes images to `folder / 'images'`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "records.jsonl").write_text(text, encoding="utf-8")
    return CambrianSource(annotations=str(folder / "records.jsonl"), images=str(folder / "images"))


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    """A raw conversation."""
    return [
        {"from": role, "value": value}
        for question, answer in turns
        for role, value in (("human", question), ("gpt", answer))
    ]
