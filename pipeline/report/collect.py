"""What the report knows of a run: its steps, read from the manifests of the report's inputs and from nothing else."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts.manifest import Counts, Provenance
from pipeline.artifacts.spec import short
from pipeline.artifacts.store import Artifact
from pipeline.plan import VARIANT_ROWS
from pipeline.steps.table import STEPS

VARIANT_NAMES = {"ca_baseline": "CA-Baseline", "age_vlm": "AGE-VLM", "age_vlm_lm": "AGE-VLM-LM"}
DATASET_NAMES = {"pretrain": "pretraining", "instruct": "instruction", "evaluation": "evaluation"}


@dataclass(frozen=True)
class StepView:
    """One step of the run as the page shows it."""

    key: str
    """Its key in the plan, e.g. 'masks-pretrain' or 'stage4_lm'."""
    artifact: Artifact
    inputs: tuple[str, ...]
    """Keys of the steps that it read, as far as they belong to the run."""

    @property
    def id(self) -> str:
        """The artifact's whole id."""
        return self.artifact.ref.id

    @property
    def short_id(self) -> str:
        """The first 12 digits of the id."""
        return short(self.id)

    @property
    def step(self) -> str:
        """Row of the step table."""
        return self.artifact.manifest.spec.step

    @property
    def title(self) -> str:
        """First line of its node: the row of the stage table that was trained, or the step."""
        return self.artifact.ref.name if self.artifact.ref.kind == "checkpoint" else self.step

    @property
    def summary(self) -> str:
        """What the step does, from the step table."""
        row = STEPS.get(self.step)
        return row.summary if row else ""

    @property
    def counts(self) -> Counts:
        """Rows in, out, rejected by reason, not selected."""
        return self.artifact.manifest.counts

    @property
    def provenance(self) -> Provenance:
        """When, where and with which versions it was made."""
        return self.artifact.manifest.provenance

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that are part of its id."""
        return self.artifact.manifest.spec.params

    @property
    def attempt(self) -> int:
        """0, or the number of the forced attempt."""
        return self.artifact.manifest.attempt


@dataclass(frozen=True)
class Run:
    """Everything that the report's inputs say of the run, in the order of the plan."""

    recipe: str
    variants: tuple[str, ...]
    steps: tuple[StepView, ...]
    trouble: tuple[str, ...] = ()
    """Inputs that do not fit together: an input was made from an artifact that is not the run's."""
    rows: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Row of the stage table -> the variants that go through it."""

    def get(self, key: str) -> StepView | None:
        """A step by key, or None."""
        return next((s for s in self.steps if s.key == key), None)

    def read_by(self, view: StepView, kind: str) -> list[StepView]:
        """The steps of the run that make artifacts of this kind and that a step read."""
        return [s for s in self.of_kind(kind) if s.key in view.inputs]

    def of_kind(self, kind: str) -> list[StepView]:
        """The steps that make artifacts of this kind, in order."""
        return [s for s in self.steps if s.artifact.ref.kind == kind]

    @property
    def seconds(self) -> float:
        """Sum of the steps' own seconds."""
        return sum(s.provenance.seconds for s in self.steps)

    @property
    def bytes(self) -> int:
        """Size of all artifacts' files."""
        return sum(s.artifact.manifest.bytes for s in self.steps)

    @property
    def began(self) -> datetime | None:
        """When the oldest of the artifacts was begun."""
        return min((datetime.fromisoformat(s.provenance.started) for s in self.steps), default=None)

    @property
    def commits(self) -> list[str]:
        """The git commits that the artifacts were made with."""
        return sorted({s.provenance.git_commit for s in self.steps if s.provenance.git_commit})

    @property
    def versions(self) -> dict[str, list[str]]:
        """Library -> the versions that the artifacts were made with (one, unless libraries changed in between)."""
        found: dict[str, set[str]] = {}
        for step in self.steps:
            for library, version in step.provenance.versions.items():
                found.setdefault(library, set()).add(version)
        return {library: sorted(versions) for library, versions in sorted(found.items())}


def collect(recipe: str, variants: tuple[str, ...], inputs: Mapping[str, Artifact]) -> Run:
    """Build the run from the report's inputs, named '<kind>/<key of the step>'."""
    keys = {name.split("/", 1)[1]: artifact for name, artifact in inputs.items()}
    by_id = {artifact.ref.id: key for key, artifact in keys.items()}
    trouble, views = [], {}
    for key, artifact in keys.items():
        parents = []
        for name, parent in artifact.manifest.parents.items():
            if parent.ref.id not in by_id:
                trouble.append(f"{key} read {parent.ref} as its '{name}', which is not part of this run")
                continue
            parents.append(by_id[parent.ref.id])
            if keys[parents[-1]].manifest.content_sha256 != parent.content_sha256:
                trouble.append(f"{key} read other content of {parents[-1]} than what is there now")
        views[key] = StepView(key, artifact, tuple(sorted(parents)))
    rows: dict[str, list[str]] = {}
    for variant in variants:
        for row in ("stage1", "stage2", *VARIANT_ROWS.get(variant, ())):
            rows.setdefault(row, []).append(variant)
    ordered = _in_order(views, variants)
    return Run(recipe, variants, tuple(ordered), tuple(trouble), {row: tuple(names) for row, names in rows.items()})


def _in_order(views: dict[str, StepView], variants: tuple[str, ...]) -> list[StepView]:
    """Inputs before what they make; among equals in the order of the step table, the data sets and the variants."""
    rank = {name: i for i, name in enumerate(STEPS)}
    rows = [row for variant in variants for row in VARIANT_ROWS.get(variant, ())]
    names = {name: i for i, name in enumerate([*DATASET_NAMES, *dict.fromkeys(rows), *variants])}

    def place(view: StepView) -> tuple[int, int, str]:
        return rank.get(view.step, len(rank)), names.get(view.artifact.ref.name, len(names)), view.key

    waiting = sorted(views.values(), key=place)
    done: list[StepView] = []
    while waiting:
        keys = {v.key for v in done}
        ready = next((v for v in waiting if keys.issuperset(v.inputs)), waiting[0])
        waiting.remove(ready)
        done.append(ready)
    return done


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
    """Names of the first `count` cross-attention layers: their positions in the student, where stage 1 tells them."""
    first = run.get("stage1")
    student = (first.params.get("student") or {}) if first else {}
    positions = list(student.get("cross_attention_layers", ()))
    return [f"layer {positions[i]}" if i < len(positions) else f"CA layer {i + 1}" for i in range(count)]


def variant_name(variant: str) -> str:
    """How a variant is written for people."""
    return VARIANT_NAMES.get(variant, variant)


def variants_text(variants: tuple[str, ...], everyone: tuple[str, ...]) -> str:
    """'all variants', or their names; the two that share stage 3 have one name for it."""
    if variants == ("age_vlm", "age_vlm_lm"):
        return "AGE\u2011VLM\u00a0(\u2011LM)"
    if len(variants) == len(everyone) and len(everyone) > 1:
        return "all variants"
    return ", ".join(variant_name(v) for v in variants)
