"""A Ray Train worker: builds the student and trains on its slice of each batch; worker 0 commits the result."""

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
from pipeline.artifacts.progress import Progress
from pipeline.artifacts.shards import Seal, Shards, folder_content
from pipeline.artifacts.store import ArtifactStore
from pipeline.masks.cells import CellTable
from pipeline.schemas import METRICS_FILE, MODEL, SPEED_FILE, STAGE_FILE
from pipeline.training.batches import Collator
from pipeline.training.config import StageTask
from pipeline.training.loop import StageTrainer
from pipeline.training.metrics import METRICS, SPEED
from pipeline.training.samples import open_samples
from pipeline.training.student import build_student, save_student


def train(task: StageTask, shards: Shards, cells: tuple[Shards, Seal] | None) -> None:
    """Train a stage and commit it.

    Args:
        shards: worker 0 commits the result here, under the name 'stage'.
        cells: the commit of a CellTable; None if the stage has no guidance loss.
    """
    rank = ray.train.get_context().get_world_rank()
    device = ray.train.torch.get_device()
    transformers.logging.disable_progress_bar()
    if device.type == "cpu":
        torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)

    store, cache = ArtifactStore(task.store), Path(task.cache)
    row = stage_row(task.row)
    samples = open_samples(store.require(task.inputs["pack"]).local(cache), row, task.config, task.seed)
    parent = store.require(task.inputs["parent"]).local(cache) / MODEL if "parent" in task.inputs else None
    model, processor = build_student(task.student, task.text, task.vision, task.seed, parent)
    model.to(device)
    stage = apply_stage(model, row)
    guide = None if cells is None else CellTable.open(cells[0].local(cells[1], cache))
    trainer = StageTrainer(
        model,
        row,
        task.config,
        samples.order,
        samples.reader,
        Collator(processor.image_processor, processor.tokenizer.pad_token_id, guide),
        task.micro_batch,
        rank,
    )
    # Every worker has the same metrics, reduced over all of them; only worker 0 reports and commits.
    progress = Progress(store, task.artifact, task.unit) if rank == 0 else None
    latest: dict[str, float] = {}

    def report(done: int, metrics: dict[str, Any] | None) -> None:
        if metrics is not None:
            latest["loss"] = metrics["lm_loss"]
            if metrics["guidance_loss"] is not None:
                latest["guidance"] = metrics["guidance_loss"]
                latest["in_mask"] = metrics["attention_in_mask"][0]
        if progress is not None:
            progress.update(done * task.config.global_batch, samples.order.samples, **latest)

    trainer.run(report)
    left_out = trainer.total_notes()  # before the branch: all workers must take part in the reduction
    if rank == 0:
        with tempfile.TemporaryDirectory(prefix="agevlm-stage-") as name:
            folder = Path(name)
            summary = summarise(stage, trainer, left_out) | {"system_prompt": task.system_prompt}
            save_student(model, processor, folder / MODEL)
            (folder / SPEED_FILE).parent.mkdir()
            pq.write_table(trainer.log.table(METRICS), folder / METRICS_FILE, compression="zstd")
            pq.write_table(trainer.log.table(SPEED), folder / SPEED_FILE, compression="zstd")
            (folder / STAGE_FILE).write_text(json.dumps(summary, indent=2) + "\n")
            device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
            facts = {"summary": summary, "device": device_name}
            shards.commit("stage", folder_content(folder), samples.order.distinct, facts)
    ray.train.report({})


def summarise(stage: StageReport, trainer: StageTrainer, left_out: dict[str, int]) -> dict[str, Any]:
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
        "guided_rows": sum(r["guided_rows"] for r in trainer.log.rows),
        "guidance_left_out": left_out,
        "final": {k: last[k] for k in ("lm_loss", "guidance_loss", "attention_in_mask", "attention_on_padding")},
    }
