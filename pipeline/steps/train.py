"""train: one stage of the recipe as a Ray Train job (rows of the stage table; paper section 3.2.3).

The artifact holds `model/` (a Hugging Face folder), `metrics.parquet` (pipeline/training/watch/metrics.py),
`stage.json`, `training_state/` (the optimizer's state) and the rows that were dropped. This driver imports nothing
heavy beyond Ray Train itself; the model lives in the workers, and worker 0 commits checkpoints and the trained model to
the store. Workers always begin with the newest intact checkpoint. So a retry after a failure of a worker or of Ray
Train's controller, and a rerun of the step on any machine, are the same.
"""

import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

from model.errors import ConfigError, DataError, StepError, TransientError
from model.stage_table import StageRow, stage_row
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.shards import Seal, Shards, folder_content
from pipeline.artifacts.spec import short
from pipeline.compute.collection import collection_paused
from pipeline.compute.resources import Resources
from pipeline.compute.session import session
from pipeline.masks.cell_builder import MaskParts, build_cells
from pipeline.plan.parameters import StageParams
from pipeline.schemas import MODEL
from pipeline.steps.context import Outcome, StepContext
from pipeline.training.checkpoints.names import CHECKPOINTS, RESULT
from pipeline.training.config import StageTask
from pipeline.training.data.guidance_cells import cell_settings
from pipeline.training.data.index import PackIndex
from pipeline.training.data.pack_files import PackFiles
from pipeline.training.data.samples import open_samples
from pipeline.training.execution import Execution
from pipeline.training.retries import Retries, failure_of
from pipeline.training.watch.trackers import check_trackers

RAY_TRAIN = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # 60 by default: too short for the imports on a busy laptop
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # saves a process per stage; its warning is not used
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # 2 by default: the controller sees the end of training that late
}
INDEX, CELLS = "index", "cells"
"""Names of the commits for the workers: the pack's index, the masks as cells."""


def run(context: StepContext) -> Outcome:
    """Train a stage. Raises ConfigError, DataError or StepError."""
    params = context.params(StageParams)
    row = _row(params.row, set(context.inputs))
    workers, batch = context.resources.workers, params.config.global_batch
    if workers > batch:
        raise ConfigError(
            f"{params.row}: {workers} workers cannot share a global batch of {batch} samples, because each needs one; "
            f"set resources.{context.step.name}.workers to {batch} or less, or training's global_batch to {workers} or "
            "more"
        )
    check_trackers((context.job.execution or Execution()).trackers)
    # Opened here too, so that bad input fails within seconds and not in every worker after its start.
    shards = context.staging.shards()
    index, committed = _commit_index(context)
    samples = open_samples(index, row, params.config, params.seed)
    result = shards.committed().get(RESULT)
    if result is None:
        cells = _commit_cells(context, params) if row.guidance_loss else None
        local = None if workers > 1 or context.resources.gpus else max(2, int(context.resources.cpus) + 1)
        checkpoints = context.staging.work_shards(CHECKPOINTS)
        retries = Retries(context.job.key, checkpoints)
        with session(cpus=local):
            context.progress.begin()
            while result is None:
                try:
                    _fit(context, params, shards, checkpoints, committed, cells)
                    break
                except TransientError as error:
                    retries.failed(error)
                    # It may have failed after its end.
                    result = shards.committed().get(RESULT)
        result = result or shards.committed().get(RESULT)
    if result is None:
        raise StepError(f"{context.job.key}: training ended without a result; see the job's log")
    summary = context.staging.commit_rejects(samples.rejects(row), [result])
    counts = Counts(
        unit=context.step.unit,
        rows_in=index.rows,
        rows_out=samples.order.distinct,
        rejected={"text_only": samples.dropped_rows} if samples.dropped else {},
        # Held-out rows, and rows that the last step does not reach.
        not_selected=len(samples.held_out) + samples.order.rows - samples.order.distinct,
    )
    return Outcome(counts, result.facts["summary"], result.facts["device"], seals=[result, summary])


def _row(name: str, inputs: set[str]) -> StageRow:
    """The row of the stage table. Raises ConfigError unless its guidance loss and the step's inputs agree."""
    try:
        row = stage_row(name)
    except ValueError as error:
        raise ConfigError(f"parameter row: {error}") from error
    if row.guidance_loss != ("masks" in inputs):
        need = "needs" if row.guidance_loss else "takes no"
        raise ConfigError(f"{name} {need} input 'masks'; its inputs are {', '.join(sorted(inputs))}")
    return row


def _commit_index(context: StepContext) -> tuple[PackIndex, tuple[Shards, Seal]]:
    """Commit the index of the pack, which the driver and every worker open from the store (memory-mapped)."""
    shards, files = context.staging.work_shards(INDEX), PackFiles.of(context.inputs["pack"])
    seal = shards.committed().get(INDEX)
    if seal is None:
        with tempfile.TemporaryDirectory(prefix="agevlm-index-") as name:
            folder = Path(name) / INDEX
            index = PackIndex.read(files)
            index.save(folder)
            seal = shards.commit(INDEX, folder_content(folder), index.rows)
    return PackIndex.open(shards.local(seal, context.cache), files), (shards, seal)


def _commit_cells(context: StepContext, params: StageParams) -> tuple[Shards, Seal]:
    """Commit the masks on the student's grid as a table, which every worker opens from the store (memory-mapped)."""
    shards = context.staging.work_shards(CELLS)
    seal = shards.committed().get(CELLS)
    if seal is None:
        settings = cell_settings(context.input_path("parent", f"{MODEL}/p") / MODEL, params.config.mask_cells)
        folder = context.work() / f"{CELLS}-{short(shards.inputs)}"  # an earlier run may have had other masks
        table = build_cells(MaskParts.of_artifact(context.inputs["masks"]), folder, settings, _tasks(context))
        seal = shards.commit(CELLS, folder_content(folder), len(table))
    if not seal.rows:
        raise DataError(
            f"{params.row}: {context.inputs['masks'].ref} has no accepted mask, which the guidance loss needs; "
            "loosen the gates (gates.*) or look at the masks in the report"
        )
    return shards, seal


def _tasks(context: StepContext) -> Resources:
    """The step's CPUs, before its workers start, as tasks of one CPU each."""
    return Resources(cpus=1, workers=max(1, int(context.resources.workers * context.resources.cpus)))


def train_worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs in each worker. It imports the model, so that the driver does not."""
    with collection_paused():
        from pipeline.training.worker import train

    train(config["task"], config["shards"], config["checkpoints"], config["index"], config["cells"])


def _fit(
    context: StepContext,
    params: StageParams,
    shards: Shards,
    checkpoints: Shards,
    index: tuple[Shards, Seal],
    cells: tuple[Shards, Seal] | None,
) -> None:
    """Run the workers once. Raises the AgevlmError of `failure_of`."""
    for name, value in RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from pipeline.training.backend import TorchWorkers

    resources, pack = context.resources, context.inputs["pack"].manifest.spec.params.get("pack", {})
    task = StageTask(
        row=params.row,
        key=context.job.key,
        recipe=context.job.recipe,
        config=params.config,
        execution=_execution(context),
        student=params.student,
        seed=params.seed,
        text=context.locations.weights_of("text"),
        vision=context.locations.weights_of("vision"),
        system_prompt=pack.get("system_prompt"),
        store=context.locations.root,
        cache=str(context.cache),
        inputs=context.job.inputs,
        artifact=context.job.ref.id,
        unit=context.step.unit,
        threads=resources.threads,
        micro_batch=resources.micro_batch,
    )
    trainer = DataParallelTrainer(
        train_worker,
        backend_config=TorchWorkers(),
        train_loop_config={
            "task": task,
            "shards": shards,
            "checkpoints": checkpoints,
            "index": index,
            "cells": cells,
        },
        scaling_config=ScalingConfig(
            num_workers=(resources.min_workers, resources.workers) if resources.min_workers else resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})},
        ),
        run_config=RunConfig(
            # Unique, so that Ray Train never resumes: its record of checkpoints can miss the latest one, and a finished
            # run would train again. It does not retry either, because it cannot tell a failure after progress from one
            # that repeats, and does not survive its controller; `run` does both.
            name=f"{context.job.key}-{uuid.uuid4().hex[:8]}",
            failure_config=FailureConfig(max_failures=0),
            **_ray_storage(context),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise failure_of(context.job.key, error) from error


def _execution(context: StepContext) -> Execution:
    """The execution with its number of loader processes: by default one for each CPU but the one of the worker."""
    execution = context.job.execution or Execution()
    if execution.loader_processes is None:
        processes = max(0, int(context.resources.cpus) - 1)
        execution = execution.model_copy(update={"loader_processes": processes})
    return execution


def _ray_storage(context: StepContext) -> dict[str, Any]:
    """Ray Train's storage options: its own files go into the store too, because all machines must see them."""
    path = context.staging.work_path("ray_train")
    if context.store.is_local:
        return {"storage_path": path}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(context.store.fs))}
