"""train: one stage of the recipe as a Ray Train job (rows of the stage table; paper section 3.2.3).

The artifact holds `model/` (a Hugging Face folder), `metrics.parquet` (pipeline/training/metrics.py), `stage.json` and
the rows that were dropped. This driver imports nothing heavy beyond Ray Train itself; the model lives in the workers.
"""

import os
import uuid
from pathlib import Path
from typing import Any

from model.errors import AgevlmError, ConfigError, DataError, StepError
from model.stage_table import StageRow, stage_row
from pipeline.artifacts.manifest import Counts
from pipeline.masks.cells import build_cells
from pipeline.ray_session import session
from pipeline.steps.context import Outcome, StepContext
from pipeline.steps.params import StageParams
from pipeline.training.geometry import cells_of
from pipeline.training.layout import MODEL
from pipeline.training.samples import open_samples

RAY_TRAIN = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # 60 by default: too short for the imports on a busy laptop
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more per stage, for a warning that nobody listens to
}
MAX_FAILURES = 2  # of the worker group: a preempted or killed worker starts the stage again


def run(context: StepContext) -> Outcome:
    """Train a stage. Raises ConfigError, DataError or StepError."""
    params = context.params(StageParams)
    row = _row(params.row, set(context.inputs))
    workers, batch = context.resources.workers, params.config.global_batch
    if workers > batch:
        raise ConfigError(
            f"{params.row}: {workers} workers cannot share a global batch of {batch} samples, for each needs one; set "
            f"resources.{context.step.name}.workers to {batch} or less, or training's global_batch to {workers} or more"
        )
    # Bad input is found here, in a second, and not by every worker after its start.
    samples = open_samples(context.input_path("pack"), row, params.config, params.seed)
    cells = _cells(context, params, row)
    local = None if context.resources.workers > 1 or context.resources.gpus else max(2, int(context.resources.cpus) + 1)
    with session(cpus=local):
        result = _fit(context, cells)
    summary: dict[str, Any] = result.metrics["summary"]
    with result.checkpoint.as_directory() as folder:
        context.staging.add_folder(folder)
    context.staging.write_rejects(samples.dropped)
    counts = Counts(
        unit=context.step.unit,
        rows_in=samples.reader.rows,
        rows_out=samples.order.distinct,
        rejected={"text_only": len(samples.dropped)} if samples.dropped else {},
        not_selected=samples.order.rows - samples.order.distinct,
    )
    return Outcome(counts, summary, device=result.metrics["device"])


def _row(name: str, inputs: set[str]) -> StageRow:
    """The row of the stage table; its guidance loss and the step's inputs must agree."""
    try:
        row = stage_row(name)
    except ValueError as error:
        raise ConfigError(f"parameter row: {error}") from error
    if row.guidance_loss != ("masks" in inputs):
        need = "needs" if row.guidance_loss else "takes no"
        raise ConfigError(f"{name} {need} input 'masks'; its inputs are {', '.join(sorted(inputs))}")
    return row


def _cells(context: StepContext, params: StageParams, row: StageRow) -> Path | None:
    """The masks on the encoder's map, as a table in the work folder; None where the row has no guidance loss."""
    if not row.guidance_loss:
        return None
    target = context.work() / "cells"
    settings = cells_of(context.input_path("parent") / MODEL, params.config.mask_cells)
    table = build_cells(context.input_path("masks"), target, settings)
    if not len(table):
        raise DataError(
            f"{params.row}: {context.inputs['masks'].ref} has no accepted mask, so there is nothing to be guided by; "
            "loosen the gates (gates.*) or look at the masks in the report"
        )
    return target


def train_worker(config: dict[str, Any]) -> None:
    """What each worker runs; a function of its own so that only workers import the model."""
    from pipeline.training.worker import train

    train(config)


def _fit(context: StepContext, cells: Path | None) -> Any:
    """Run the workers and return Ray Train's result. Raises StepError, or the error that a worker raised on purpose."""
    for name, value in RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = context.resources
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "job": context.job.model_dump(mode="json"),
            "cells": None if cells is None else str(cells),
        },
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})},
        ),
        run_config=RunConfig(
            # Unique: Ray Train resumes a run of the same name, and a stage that begins anew must not be one.
            name=f"{context.job.key}-{uuid.uuid4().hex[:8]}",
            storage_path=str(context.work() / "train"),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:
        raise _explained(context.job.key, error) from error
    if result.checkpoint is None:
        raise StepError(f"{context.job.key}: training ended without a checkpoint; see the job's log")
    return result


def _explained(key: str, error: Exception) -> AgevlmError:
    """The error that a worker raised on purpose, or a StepError that names what went wrong in one line."""
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
