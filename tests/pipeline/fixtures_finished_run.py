"""A store as a run of the miniature recipe leaves it, with the real plan's specs and invented numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.stage_table import PARTS, STAGES
from pipeline.artifacts.manifest import Counts, Origin
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.plan.planner import Plan, plan
from pipeline.plan.recipe import Recipe, load_recipe

FINGERPRINTS = {
    **{f"data.{name}": f"{name}-raw" for name in ("pretrain", "instruct", "evaluation")},
    **{f"weights.{role}": f"{role}-weights" for role in ("florence", "sam", "text", "vision")},
    "tokenizer": "the-tokenizer",
}
SCORES = [
    {"benchmark": "existence", "metric": "accuracy", "title": "yes/no accuracy", "value": 0.75, "standard_error": 0.1,
     "low": 0.5, "high": 0.875, "n": 16, "chance": 0.5, "chance_name": "always yes"},
    {"benchmark": "open", "metric": "accuracy", "title": "open accuracy", "value": 0.25, "standard_error": 0.1,
     "low": 0.125, "high": 0.375, "n": 1234, "chance": None, "chance_name": ""},
]  # fmt: skip


def write_folder(staging: Staging, folder: Path, name: str) -> None:
    """Write the files of a local folder into the folder `name` of an artifact."""
    for file in sorted(folder.iterdir()):
        staging.write_bytes(f"{name}/{file.name}", file.read_bytes())


class Chain:
    """The artifacts of one variant up to its evaluation, by the keys of the plan.

    Args:
        model: a folder that becomes every checkpoint's model; None where only manifests are read.
        fingerprints: of raw data and weights, in place of FINGERPRINTS.
        changes: fields of the recipe.
    """

    def __init__(
        self,
        root: Path,
        variant: str,
        model: Path | None = None,
        fingerprints: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> None:
        self.store = ArtifactStore(str(root))
        self.model = model
        raw = {**load_recipe("miniature").model_dump(mode="json"), "variants": [variant], **changes}
        self.plan: Plan = plan(Recipe.model_validate(raw), self.store.attempt, {**FINGERPRINTS, **(fingerprints or {})})
        self.made: dict[str, Artifact] = {}
        for step in self.plan:
            if step.key != "report":
                self.made[step.key] = self.publish(step.key)

    @property
    def last(self) -> Artifact:
        """The variant's final checkpoint."""
        return [artifact for artifact in self.made.values() if artifact.ref.kind == "checkpoint"][-1]

    def publish(self, key: str, content: bytes = b"made up") -> Artifact:
        """Publish one step's artifact; its inputs must be there."""
        step = self.plan[key]
        parents = {name: self.made[parent] for name, parent in step.inputs.items()}
        run = Origin(flow_run_id="run-1", flow_run="brave-owl", flow_run_page="http://prefect.test/run-1")
        staging = Staging(self.store, step.ref, step.spec, 0, parents, "c" * 40, f"job-of-{key}", run)
        staging.write_bytes("file.bin", content)
        statistics: dict[str, Any] = {}
        if step.ref.kind == "checkpoint":
            statistics = self._trained(step.ref.name, step.spec.params["config"])
            staging.write_bytes("stage.json", json.dumps(statistics).encode())
            if self.model is not None:
                write_folder(staging, self.model, "model")
        if step.ref.kind == "evaluation":
            staging.write_bytes("scores.json", json.dumps({"scores": SCORES}).encode())
        rejected = {"no_region": 4} if step.ref.kind == "masks" else {}
        counts = Counts(unit=step.step.unit, rows_in=16, rows_out=16 - sum(rejected.values()), rejected=rejected)
        return staging.publish(counts, statistics)

    def remove(self, key: str) -> None:
        """Remove an artifact's manifest, so that the artifact does not exist any more."""
        Path(self.store.manifest_path(self.made[key].ref)).unlink()

    def _trained(self, row: str, config: dict[str, Any]) -> dict[str, Any]:
        guidance = STAGES[row].guidance_loss
        return {
            "row": row,
            "losses": {"lm": True, "guidance": guidance},
            "trainable": dict(zip(PARTS, (0, 20, 30, 0), strict=True)),
            "steps": 7,
            "global_batch": config["global_batch"],
            "samples": 112,
            "distinct_samples": 16,
            "guided_rows": 11 if guidance else 0,
            "guidance_left_out": {"no_token": 2} if guidance else {},
            "final": {"lm_loss": 0.625, "guidance_loss": 1.5 if guidance else None, "attention_in_mask": None},
            "system_prompt": "Answer briefly.",
        }
