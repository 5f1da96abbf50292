"""What one Ray Train worker does: build the student, train its share of the stage; worker 0 saves the result."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray.train
import ray.train.torch
import torch
import transformers

from model.stage_table import stage_row
from model.stages import StageReport, apply_stage
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.config import validate
from pipeline.job import JobSpec
from pipeline.masks.cells import CellTable
from pipeline.progress import Progress
from pipeline.steps.params import StageParams
from pipeline.steps.table import STEPS
from pipeline.training.batches import Collator
from pipeline.training.build import build_student
from pipeline.training.checkpoint import save_student
from pipeline.training.layout import METRICS_FILE, MODEL, SPEED_FILE, STAGE_FILE
from pipeline.training.loop import StageTrainer
from pipeline.training.metrics import METRICS, SPEED
from pipeline.training.samples import open_samples


def train(config: dict[str, Any]) -> None:
    """Train a stage. `config`: 'job' (a JobSpec as plain data) and 'cells' (the folder of a CellTable, or None)."""
    job = validate(JobSpec, config["job"], "the training job")
    params = validate(StageParams, job.spec.params, f"parameters of {job.key}")
    rank = ray.train.get_context().get_world_rank()
    device = ray.train.torch.get_device()
    transformers.logging.disable_progress_bar()
    if device.type == "cpu":
        torch.set_num_threads(job.resources.threads)
    torch.manual_seed(params.seed)

    store, cache = ArtifactStore(job.site.root), Path(job.site.scratch) / "cache"
    folders = {name: store.require(ref).local(cache) for name, ref in job.inputs.items()}
    row = stage_row(params.row)
    samples = open_samples(folders["pack"], row, params.config, params.seed)
    parent = folders["parent"] / MODEL if "parent" in folders else None
    weights = job.site.weights
    model, processor = build_student(params.student, weights["text"], weights["vision"], params.seed, parent)
    model.to(device)
    stage = apply_stage(model, row)
    guide = CellTable.open(Path(config["cells"])) if config["cells"] else None
    trainer = StageTrainer(
        model,
        row,
        params.config,
        samples.order,
        samples.reader,
        Collator(processor.image_processor, processor.tokenizer.pad_token_id, guide),
        job.resources.micro_batch,
        rank,
    )
    progress = Progress(store, job.ref.id, STEPS[job.spec.step].unit) if rank == 0 else None
    latest: dict[str, float] = {}

    def report(done: int, metrics: dict[str, Any] | None) -> None:
        if metrics is not None:
            latest["loss"] = metrics["lm_loss"]
            if metrics["guidance_loss"] is not None:
                latest["guidance"] = metrics["guidance_loss"]
                latest["in_mask"] = metrics["attention_in_mask"][0]
        if progress is not None:
            progress.update(done * params.config.global_batch, samples.order.samples, **latest)

    trainer.run(report)
    notes = trainer.total_notes()
    if rank != 0:
        ray.train.report({})
        return
    with tempfile.TemporaryDirectory(prefix="agevlm-stage-") as folder:
        save_student(model, processor, Path(folder) / MODEL)
        (Path(folder) / SPEED_FILE).parent.mkdir()
        pq.write_table(trainer.log.table(METRICS), Path(folder) / METRICS_FILE, compression="zstd")
        pq.write_table(trainer.log.table(SPEED), Path(folder) / SPEED_FILE, compression="zstd")
        summary = summarise(stage, trainer, notes) | {"system_prompt": system_prompt(store.require(job.inputs["pack"]))}
        (Path(folder) / STAGE_FILE).write_text(json.dumps(summary, indent=2) + "\n")
        device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        ray.train.report(
            {"summary": summary, "device": device_name}, checkpoint=ray.train.Checkpoint.from_directory(folder)
        )


def system_prompt(pack: Artifact) -> str | None:
    """The system turn of the pack's conversations: who asks the student later must say it too."""
    value = pack.manifest.spec.params.get("pack", {}).get("system_prompt")
    return None if value is None else str(value)


def summarise(stage: StageReport, trainer: StageTrainer, notes: dict[str, int]) -> dict[str, Any]:
    """The content of stage.json: what was trained, on how much, and where it ended."""
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
        "guided_rows": sum(r["guided_rows"] for r in trainer.log.rows),
        "guidance_left_out": notes,
        "final": {k: last[k] for k in ("lm_loss", "guidance_loss", "attention_in_mask", "attention_on_padding")},
    }
