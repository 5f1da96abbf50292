"""The four training stages of a tiny student as jobs of a store, and what is compared of their artifacts."""

import hashlib
from pathlib import Path
from typing import Any

from pipeline.artifacts.manifest import ASIDE
from pipeline.artifacts.store import Artifact
from pipeline.compute.resources import Resources
from pipeline.plan.job import JobSpec
from pipeline.training.config import StageConfig, StudentConfig
from pipeline.training.execution import Execution
from pipeline.training.student import join_backbones
from tests.pipeline.steps.fixtures_store import Bench
from tests.pipeline.training.fixtures_tiny_training import ExactGuide, make_backbones, make_pack

STUDENT = StudentConfig(cross_attention_layers=(1, 4))
ROWS = {"stage1": "stage1", "stage2": "stage2", "stage3": "stage3", "stage4": "stage4_lm"}
"""Step -> row of the stage table."""
GUIDED = ("stage3", "stage4")
EXECUTION = Execution(log_every=5, checkpoint_steps=10, held_out_every=100)


class World:
    """Backbones and a pack that several stores share."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self.config = StageConfig(
            global_batch=4, learning_rate=1e-3, precision="fp32", epochs=10 * steps, max_steps=steps, held_out=2
        )
        self.weights = make_backbones(folder / "backbones")
        _, processor = join_backbones(STUDENT, self.weights["text"], self.weights["vision"], 0)
        self.guide: ExactGuide = make_pack(folder / "pack", processor, 44)

    def jobs(self, name: str) -> tuple[Bench, dict[str, JobSpec]]:
        """A new store with the pack and masks, and the jobs of the four stages in it, in order."""
        bench = Bench(self.folder / name, self.weights)
        inputs: dict[str, Any] = {"pack": bench.publish("pack", "pretrain", self.folder / "pack")}
        masks = bench.masks(self.guide)
        jobs: dict[str, JobSpec] = {}
        for step, row in ROWS.items():
            first = step == "stage1"
            params = {
                "row": row,
                "config": self.config.model_dump(mode="json"),
                "student": STUDENT.model_dump(mode="json") if first else None,
                "text": "t" if first else None,
                "vision": "v" if first else None,
                "seed": 0,
            }
            own = inputs | ({"masks": masks} if step in GUIDED else {})
            job = bench.job(step, "checkpoint", params, own, Resources(cpus=1, threads=1, micro_batch=4))
            jobs[step] = job.model_copy(update={"execution": EXECUTION})
            inputs["parent"] = job.ref
        return bench, jobs


def result_of(artifact: Artifact) -> dict[str, str]:
    """The digests of all that is an artifact's content, by file: loss curve, weights, optimizer's state, facts."""
    files = [file for file in artifact.files if not file.startswith(ASIDE)]
    return {file: hashlib.sha256((artifact.local() / file).read_bytes()).hexdigest() for file in files}
