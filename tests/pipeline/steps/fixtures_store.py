"""Inputs of the steps train and evaluate, published directly into a store."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.miniature.language import questions
from model.miniature.world import make_scene, render
from model.teachers import rle
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import ArtifactStore
from pipeline.compute.resources import Resources
from pipeline.plan.job import JobSpec
from pipeline.plan.locations import Locations
from pipeline.plan.step_table import STEPS
from pipeline.schemas import MASKS, RECORDS, TRUTH, part_name
from tests.pipeline.steps.fixtures_single_step import true_fingerprints
from tests.pipeline.training.fixtures_tiny_training import ExactGuide, jpeg


class Bench:
    """A store, its locations, and jobs of single steps."""

    def __init__(self, root: Path, weights: dict[str, str]) -> None:
        self.root, self.store = root, ArtifactStore(str(root / "store"))
        images = {"kind": "cambrian", "annotations": "none", "images": str(root / "images")}
        self.locations = Locations.model_validate(
            {
                "root": str(root / "store"),
                "scratch": str(root / "scratch"),
                "sources": {"evaluation": images},
                "weights": weights,
            }
        )

    def publish(self, kind: str, name: str, folder: Path, params: dict[str, Any] | None = None) -> ArtifactRef:
        """Publish a folder as an artifact."""
        spec = StepSpec(step=kind, revision=1, params={**(params or {}), "at": str(folder)}, inputs={})
        ref = ArtifactRef(kind=kind, name=name, id=spec.id())
        staging = Staging(self.store, ref, spec, 0, {})
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            staging.write_bytes(file.relative_to(folder).as_posix(), file.read_bytes())
        staging.publish(Counts(unit="row", rows_in=1, rows_out=1))
        return ref

    def job(
        self,
        step: str,
        kind: str,
        params: dict[str, Any],
        inputs: dict[str, ArtifactRef],
        resources: Resources | None = None,
        share: float = 0.05,
    ) -> JobSpec:
        """The job of one step. `share`: share of its rows that it may reject."""
        params = true_fingerprints(params, self.locations, step)
        planned = {name: ref.id for name, ref in inputs.items()}
        spec = StepSpec(step=step, revision=STEPS[step].revision, params=params, inputs=planned)
        return JobSpec(
            key=step,
            spec=spec,
            ref=ArtifactRef(kind=kind, name=step, id=spec.id()),
            inputs=inputs,
            locations=self.locations.model_copy(update={"max_reject_share": share}),
            resources=resources or Resources(cpus=1, threads=1, micro_batch=4),
        )

    def evaluation(self, scenes: int) -> ArtifactRef:
        """An inventory of scenes with questions and truth, and one text-only record."""
        (self.root / "images").mkdir(parents=True)
        records, truth = [], []
        for number in range(scenes):
            scene = make_scene(300_000 + number)
            picture, masks = render(scene)
            content = jpeg(picture)
            (self.root / "images" / f"{number}.jpg").write_bytes(content)
            asked = questions(scene)[:4]
            records.append(
                {
                    "sample_id": f"e{number}",
                    "given_id": "",
                    "has_image": True,
                    "image": f"{number}.jpg",
                    "image_sha256": hashlib.sha256(content).hexdigest(),
                    "width": scene.width,
                    "height": scene.height,
                    "turns": [{"question": q.question, "answer": q.answer} for q in asked],
                }
            )
            for turn, question in enumerate(asked):
                mask = np.any(masks[list(question.targets)], axis=0) if question.targets else None
                truth.append(
                    {
                        "sample_id": f"e{number}",
                        "turn": turn,
                        "present": mask is not None,
                        "height": scene.height,
                        "width": scene.width,
                        "rle": None if mask is None else rle.encode(mask),
                    }
                )
        text = {"sample_id": "text", "has_image": False, "turns": [{"question": "Why?", "answer": "Because."}]}
        records.append({**dict.fromkeys(RECORDS.names), **text})
        folder = self.root / "inventory"
        for name, rows, schema in (("records", records, RECORDS), ("truth", truth, TRUTH)):
            (folder / name).mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / part_name(0, 1, name))
        return self.publish("inventory", "evaluation", folder)

    def masks(self, guide: ExactGuide, status: str = "ok") -> ArtifactRef:
        """A masks artifact with the exact masks of a guide."""
        rows = [
            {
                **dict.fromkeys(MASKS.names),
                **mask,
                "status": status,
                "rle": mask["rle"] if status == "ok" else None,
            }
            for mask in guide.masks.values()
        ]
        folder = self.root / "masks"  # of one id, so that a test can make them again with another status
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=MASKS), folder / part_name(0, 1))
        return self.publish("masks", "pretrain", folder)


def read_json(path: Path) -> Any:
    """A JSON file's value."""
    return json.loads(path.read_text())
