"""The run that a report is about: its steps, read from the manifests of the report's inputs and from nothing else."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.stage_table import STAGE_STEPS, VARIANT_NAMES, VARIANT_ROWS
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.store import Artifact
from pipeline.plan.step_table import STEPS

DATASET_NAMES = {"pretrain": "pretraining", "instruct": "instruction", "evaluation": "evaluation"}


@dataclass(frozen=True)
class StepView:
    """One step of the run and the artifact that it made."""

    key: str
    """Its key in the plan, e.g. 'masks-pretrain' or 'stage4_lm'."""
    artifact: Artifact
    inputs: tuple[str, ...]
    """Keys of the steps of this run that it read."""

    @property
    def manifest(self) -> Manifest:
        """Counts, provenance and parameters."""
        return self.artifact.manifest

    @property
    def id(self) -> str:
        """The artifact's whole id."""
        return self.artifact.ref.id

    @property
    def kind(self) -> str:
        """The artifact's kind, e.g. 'masks'."""
        return self.artifact.ref.kind

    @property
    def name(self) -> str:
        """The artifact's name: a data set, a row of the stage table or a variant."""
        return self.artifact.ref.name

    @property
    def step(self) -> str:
        """Row of the step table."""
        return self.manifest.spec.step

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that are part of its id."""
        return self.manifest.spec.params


@dataclass(frozen=True)
class Run:
    """Everything that the report's inputs say of the run; a step comes after its inputs."""

    recipe: str
    variants: tuple[str, ...]
    steps: tuple[StepView, ...]
    trouble: tuple[str, ...] = ()
    """Inputs that do not fit together: one was made from an artifact that is not part of the run."""

    def of_kind(self, kind: str) -> list[StepView]:
        """The steps that make artifacts of this kind, in order."""
        return [s for s in self.steps if s.kind == kind]

    def get(self, kind: str, name: str) -> StepView | None:
        """The step that made the artifact of this kind and name, or None."""
        return next((s for s in self.of_kind(kind) if s.name == name), None)

    def read_by(self, view: StepView, kind: str) -> list[StepView]:
        """The steps that made the artifacts of this kind that a step read."""
        return [s for s in self.of_kind(kind) if s.key in view.inputs]

    def variants_of(self, row: str) -> list[str]:
        """The variants that go through a row of the stage table; all go through the first two stages."""
        return [v for v in self.variants if row in (*STAGE_STEPS[:2], *VARIANT_ROWS.get(v, ()))]

    def label_of(self, row: str) -> str:
        """'all variants', or the names of those that go through a row of the stage table; '' if none does."""
        found = self.variants_of(row)
        return "all variants" if len(found) == len(self.variants) > 1 else ", ".join(map(variant_name, found))

    @property
    def source_kinds(self) -> dict[str, str]:
        """Data set -> kind of its raw data."""
        return {view.name: str((view.params.get("source") or {}).get("kind")) for view in self.of_kind("inventory")}


def collect(recipe: str, variants: tuple[str, ...], inputs: Mapping[str, Artifact]) -> Run:
    """Build the run from the report's inputs, named '<kind>/<key of the step>'."""
    keys = {name.split("/", 1)[1]: artifact for name, artifact in inputs.items()}
    by_id = {artifact.ref.id: key for key, artifact in keys.items()}
    trouble, views = [], []
    for key, artifact in keys.items():
        parents = []
        for name, parent in artifact.manifest.parents.items():
            if parent.ref.id not in by_id:
                trouble.append(f"{key} read {parent.ref} as its '{name}', which is not part of this run")
                continue
            parents.append(by_id[parent.ref.id])
            if keys[parents[-1]].manifest.content_sha256 != parent.content_sha256:
                trouble.append(f"{key} read other content of {parents[-1]} than what is there now")
        views.append(StepView(key, artifact, tuple(sorted(parents))))
    return Run(recipe, variants, tuple(_in_order(views, variants)), tuple(trouble))


def _in_order(views: list[StepView], variants: tuple[str, ...]) -> list[StepView]:
    """Inputs first; among equals in the order of the step table, of the data sets and of the variants."""
    steps = {name: i for i, name in enumerate(STEPS)}
    rows = [row for variant in variants for row in VARIANT_ROWS.get(variant, ())]
    names = {name: i for i, name in enumerate(dict.fromkeys([*DATASET_NAMES, *rows, *variants]))}

    def place(view: StepView) -> tuple[int, int, str]:
        return steps.get(view.step, len(steps)), names.get(view.name, len(names)), view.key

    by_key = {view.key: view for view in sorted(views, key=place)}
    return [by_key[key] for key in TopologicalSorter({k: v.inputs for k, v in by_key.items()}).static_order()]


def read_tables(artifact: Artifact, prefix: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The shards of a table, one after the other, with only these columns; nothing else is fetched from the store."""
    for file in artifact.matching(prefix, ".parquet"):
        with artifact.open(file) as stream:
            yield pq.ParquetFile(stream).read(columns=columns)


def read_rows(artifact: Artifact, prefix: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a table."""
    for table in read_tables(artifact, prefix, columns):
        yield from table.to_pylist()


def layer_names(run: Run, count: int) -> list[str]:
    """Names of the first `count` cross-attention layers: their positions in the student, where stage 1 records them."""
    first = run.get("checkpoint", STAGE_STEPS[0])
    student = (first.params.get("student") or {}) if first else {}
    positions = list(student.get("cross_attention_layers", ()))
    return [f"layer {positions[i]}" if i < len(positions) else f"CA layer {i + 1}" for i in range(count)]


def variant_name(variant: str) -> str:
    """The paper's name of a variant."""
    return VARIANT_NAMES.get(variant, variant)
