"""train: one stage of the recipe as a Ray Train job (rows of the stage table; paper section 3.2.3).

The artifact holds `model/` (a Hugging Face folder), `metrics.parquet` (pipeline/training/metrics.py), `stage.json` and
the rows that were dropped. This driver imports nothing heavy beyond Ray Train itself; the model lives in the workers,
and worker 0 commits the trained model to the store.
"""

import os
import uuid
from typing import Any

from model.errors import AgevlmError, ConfigError, DataError, StepError
from model.stage_table import StageRow, stage_row
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.shards import Seal, Shards, folder_content
from pipeline.artifacts.spec import short
from pipeline.compute.collection import collection_paused
from pipeline.compute.session import session
from pipeline.masks.cells import build_cells
from pipeline.plan.parameters import StageParams
from pipeline.schemas import MODEL
from pipeline.steps.context import Outcome, StepContext
from pipeline.training.config import StageTask
from pipeline.training.guidance_cells import cell_settings
from pipeline.training.samples import open_samples

RAY_TRAIN = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # 60 by default: too short for the imports on a busy laptop
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # saves a process per stage; its warning is not used
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # 2 by default: the controller sees the end of training that late
}
MAX_FAILURES = 2  # of the worker group: a preempted or killed worker starts the stage again
RESULT, CELLS = "stage", "cells"
"""Names of the commits: the trained model with its metrics, and the masks as cells for the workers."""


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
    # Opened here too, so that bad input fails within seconds and not in every worker after its start.
    samples = open_samples(context.input_path("pack"), row, params.config, params.seed)
    shards = context.staging.shards()
    result = shards.committed().get(RESULT)
    if result is None:
        cells = _commit_cells(context, params) if row.guidance_loss else None
        local = None if workers > 1 or context.resources.gpus else max(2, int(context.resources.cpus) + 1)
        with session(cpus=local):
            _fit(context, params, shards, cells)
        result = shards.committed().get(RESULT)
    if result is None:
        raise StepError(f"{context.job.key}: training ended without a result; see the job's log")
    summary = context.staging.commit_rejects(samples.dropped, [result])
    counts = Counts(
        unit=context.step.unit,
        rows_in=samples.reader.rows,
        rows_out=samples.order.distinct,
        rejected={"text_only": len(samples.dropped)} if samples.dropped else {},
        not_selected=samples.order.rows - samples.order.distinct,
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


def _commit_cells(context: StepContext, params: StageParams) -> tuple[Shards, Seal]:
    """Commit the masks on the student's grid as a table, which every worker opens from the store (memory-mapped)."""
    shards = context.staging.work_shards(CELLS)
    seal = shards.committed().get(CELLS)
    if seal is None:
        settings = cell_settings(context.input_path("parent", f"{MODEL}/p") / MODEL, params.config.mask_cells)
        folder = context.work() / f"{CELLS}-{short(shards.inputs)}"  # an earlier run may have had other masks
        table = build_cells(context.input_path("masks"), folder, settings)
        seal = shards.commit(CELLS, folder_content(folder), len(table))
    if not seal.rows:
        raise DataError(
            f"{params.row}: {context.inputs['masks'].ref} has no accepted mask, which the guidance loss needs; "
            "loosen the gates (gates.*) or look at the masks in the report"
        )
    return shards, seal


def train_worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs in each worker. It imports the model, so that the driver does not."""
    with collection_paused():
        from pipeline.training.worker import train

    train(config["task"], config["shards"], config["cells"])


def _fit(context: StepContext, params: StageParams, shards: Shards, cells: tuple[Shards, Seal] | None) -> None:
    """Run the workers. Raises StepError, or the AgevlmError that a worker raised."""
    for name, value in RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from pipeline.training.backend import TorchWorkers

    resources, pack = context.resources, context.inputs["pack"].manifest.spec.params.get("pack", {})
    task = StageTask(
        row=params.row,
        config=params.config,
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
        train_loop_config={"task": task, "shards": shards, "cells": cells},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})},
        ),
        run_config=RunConfig(
            # Unique: Ray Train would resume an earlier run of the same name, but a stage starts from its first step.
            name=f"{context.job.key}-{uuid.uuid4().hex[:8]}",
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            **_ray_storage(context),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise _explained(context.job.key, error) from error


def _ray_storage(context: StepContext) -> dict[str, Any]:
    """Ray Train's storage options: its own files go into the store too, because all machines must see them."""
    path = context.staging.work_path("ray_train")
    if context.store.is_local:
        return {"storage_path": path}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(context.store.fs))}


def _explained(key: str, error: Exception) -> AgevlmError:
    """The AgevlmError that a worker raised, or else a StepError that names the first failure in one line."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in [*failures.values(), error]:
        seen: BaseException | None = failure
        while seen is not None:
            if isinstance(seen, AgevlmError):
                return seen
            seen = getattr(seen, "cause", None) or seen.__cause__
    rank, first = next(iter(failures.items()), (None, error))
    where = "" if rank is None else f" on worker {rank}"
    return StepError(f"{key}: training failed{where}: {type(first).__name__}: {first}; see the job's log")
