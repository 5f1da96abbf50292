"""A Ray Train worker: builds the student and trains on its slice of each batch; worker 0 commits the result."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import transformers

from model.stage_table import stage_row
from model.stages import apply_stage
from pipeline.artifacts.progress import Progress
from pipeline.artifacts.shards import Seal, Shards
from pipeline.artifacts.store import ArtifactStore
from pipeline.compute.metrics import tags_of
from pipeline.compute.step_gauges import StepGauges
from pipeline.masks.cells import CellTable
from pipeline.schemas import MODEL
from pipeline.training.alignment.stage import prove_stage
from pipeline.training.checkpoints.checkpoints import Checkpoints
from pipeline.training.config import StageTask
from pipeline.training.data.batches import Collator
from pipeline.training.data.index import PackIndex
from pipeline.training.data.order_figures import order_figures
from pipeline.training.data.pack_files import PackFiles
from pipeline.training.data.samples import open_samples
from pipeline.training.held_out import HeldOut
from pipeline.training.loop import StageTrainer
from pipeline.training.result import commit_result, stage_facts
from pipeline.training.student import build_student
from pipeline.training.watch.stage_watch import StageWatch
from pipeline.training.watch.trackers import Stage


def train(
    task: StageTask,
    shards: Shards,
    checkpoints: Shards,
    pack_index: tuple[Shards, Seal],
    cells: tuple[Shards, Seal] | None,
) -> None:
    """Train a stage, from its newest checkpoint on, and commit it.

    Args:
        shards: worker 0 commits the result here, under the name 'stage'.
        checkpoints: worker 0 commits checkpoints here while it trains.
        pack_index: the commit of a PackIndex.
        cells: the commit of a CellTable; None if the stage has no guidance loss.
    """
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    transformers.logging.disable_progress_bar()
    if device.type == "cpu":
        torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)

    store, cache = ArtifactStore(task.store), Path(task.cache)
    row = stage_row(task.row)
    files = PackFiles.of(store.require(task.inputs["pack"]))  # read by byte range: no pack is downloaded
    index = PackIndex.open(pack_index[0].local(pack_index[1], cache), files)
    samples = open_samples(index, row, task.config, task.seed)
    parent = store.require(task.inputs["parent"]).local(cache, f"{MODEL}/") / MODEL if "parent" in task.inputs else None
    model, processor = build_student(task.student, task.text, task.vision, task.seed, parent)
    model.to(device)
    stage = apply_stage(model, row)
    guide = None if cells is None else CellTable.open(cells[0].local(cells[1], cache))
    pad = processor.tokenizer.pad_token_id
    held_out = HeldOut.read(samples, Collator(processor.image_processor, pad, guide), task.micro_batch, rank, workers)
    collate = Collator(processor.image_processor, pad, guide)
    trainer = StageTrainer(
        model,
        row,
        task.config,
        task.execution,
        samples,
        collate,
        task.micro_batch,
        task.seed,
        rank,
        held_out,
    )

    # One way to begin, for a first start, a retry and a rerun: the newest intact checkpoint, else the parent. A worker
    # of an earlier run that still lives ends at its next checkpoint if the stage is published meanwhile.
    with Checkpoints(trainer, checkpoints, rank, shards.refuse_published) as running:
        running.resume(cache, context.get_local_rank() == 0)
        with watched(task, store, trainer) if rank == 0 else nullcontext() as watch:

            def report(done: int, metrics: dict[str, Any] | None) -> None:
                if watch is not None:
                    watch.step(samples.order.seen(done), metrics)
                running.after_step(metrics is not None)

            if guide is not None and rank == 0 and trainer.done == 0:
                masks, rule = store.require(task.inputs["masks"]), task.config.mask_cells
                prove_stage(task.row, samples, collate, processor, rule, masks, cache)
            trainer.run(report)

    guided = None if guide is None else lambda shard: guide.has(samples.sample_ids(shard))
    # Of whole global batches, so that the stage's content depends on no resources.
    figures = order_figures(samples.order, samples.order.global_batch, 1, guided) if rank == 0 else {}
    added = {"system_prompt": task.system_prompt, "order": figures}
    commit_result(trainer, running, stage, processor, added, shards, rank)
    ray.train.report({})


def watched(task: StageTask, store: ArtifactStore, trainer: StageTrainer) -> StageWatch:
    """The watch of a stage. Rows that the trainer has already are those of an earlier run."""
    layers = [f"layer_{position}" for position in trainer.model.config.cross_attention_layers]
    stage = Stage(store, task.artifact, task.row, task.key, tuple(trainer.log.rows), task.recipe)
    gauges = StepGauges(tags_of(task.recipe, task.key, task.artifact), task.unit)
    progress = Progress(store, task.artifact, task.unit, gauges)
    return StageWatch(stage, stage_facts(trainer), progress, trainer.order.samples, layers, task.execution.trackers)
