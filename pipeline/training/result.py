"""The artifact of a stage: the model as a Hugging Face folder, the metrics, and the training state apart from it.

Its content does not depend on how often the stage was interrupted. What does is below `provenance/`.
"""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from model.agevlm.processing_agevlm import AgeVlmProcessor
from model.stages import StageReport
from pipeline.artifacts.shards import Shards, folder_content
from pipeline.schemas import METRICS_FILE, MODEL, RUN_FILE, SPEED_FILE, STAGE_FILE, TRAINING_STATE, WARNINGS_FILE
from pipeline.training.checkpoints.checkpoints import Checkpoints
from pipeline.training.checkpoints.names import RESULT
from pipeline.training.checkpoints.state import OPTIMIZER, STATE, HostMemory, Snapshot, capture
from pipeline.training.loop import StageTrainer
from pipeline.training.student import save_student
from pipeline.training.tensors import full_state
from pipeline.training.watch.metrics import METRICS, SPEED
from pipeline.training.watch.warnings import TIMED, StageFacts, Warnings

FINAL = ("lm_loss", "guidance_loss", "attention_in_mask", "attention_on_padding", "held_out_loss")


def commit_result(
    trainer: StageTrainer,
    checkpoints: Checkpoints,
    stage: StageReport,
    processor: AgeVlmProcessor,
    added: dict[str, Any],
    shards: Shards,
    rank: int,
) -> None:
    """Commit a trained stage on worker 0. Every worker must call this: the workers gather their parts of the model.

    added: further fields of stage.json.
    """
    snapshot = capture(trainer, HostMemory(), keep=rank == 0)
    weights = full_state(trainer.model, keep=rank == 0)
    if snapshot is None:
        return
    with tempfile.TemporaryDirectory(prefix="agevlm-stage-") as name:
        folder = Path(name)
        summary = summarise(stage, trainer, snapshot) | added
        save_student(trainer.model, processor, folder / MODEL, weights)
        for file in (f"{TRAINING_STATE}/{STATE}", SPEED_FILE):
            (folder / file).parent.mkdir()
        snapshot.write_optimizer(folder / TRAINING_STATE / OPTIMIZER)
        _write_json(folder / TRAINING_STATE / STATE, {k: snapshot.state[k] for k in ("step", "samples")})
        pq.write_table(trainer.log.table(METRICS), folder / METRICS_FILE, compression="zstd")
        pq.write_table(trainer.log.table(SPEED), folder / SPEED_FILE, compression="zstd")
        _write_json(folder / STAGE_FILE, summary)
        _write_json(
            folder / RUN_FILE,
            {"resumed_from": checkpoints.resumed_from, "checkpoint_seconds": round(checkpoints.blocked_seconds, 3)},
        )
        device = trainer.device
        device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        warnings = stage_warnings(trainer)
        _write_json(folder / WARNINGS_FILE, warnings)
        # A manifest's statistics are content, so what depends on time stays out of them.
        told = {f"{w['name']} ({w['rows']} rows)": w["text"] for w in warnings if w["name"] not in TIMED}
        facts = {"summary": summary | ({"warnings": told} if told else {}), "device": device_name}
        shards.commit(RESULT, folder_content(folder), trainer.order.distinct, facts)


def stage_facts(trainer: StageTrainer) -> StageFacts:
    """Facts of the stage for the rules of warnings."""
    return StageFacts(trainer.order.steps, trainer.row.guidance_loss)


def stage_warnings(trainer: StageTrainer) -> list[dict[str, Any]]:
    """All warnings of the stage's rows, those of an earlier run too."""
    warnings = Warnings(stage_facts(trainer))
    warnings.follow(trainer.log.rows, quiet=True)
    return warnings.to_json()


def summarise(stage: StageReport, trainer: StageTrainer, snapshot: Snapshot) -> dict[str, Any]:
    """The content of stage.json: the trained parameters, the amount of data, and the last metrics."""
    last = trainer.log.rows[-1]
    row, order = stage.stage, trainer.order
    return {
        "row": row.name,
        "losses": {"lm": row.lm_loss, "guidance": row.guidance_loss},
        "vision_encoder": row.vision_encoder,
        "trainable": stage.trainable,
        "parameters": stage.total,
        "steps": order.steps,
        "global_batch": order.global_batch,
        "samples": order.samples,
        "distinct_samples": order.distinct,
        "rows": order.rows,
        "held_out_rows": len(trainer.samples.held_out),
        "guided_rows": sum(r["guided_rows"] for r in trainer.log.rows),
        "guidance_left_out": snapshot.state["guidance_left_out"],
        "final": {name: _finite(last[name]) for name in FINAL},
    }


def _finite(value: Any) -> Any:
    """A value for JSON, which has no NaN: None in its place."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
