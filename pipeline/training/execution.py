"""Settings of a running stage that are never part of an id: they change only rounding, and which steps are logged.

`log_every` and `held_out_every` decide which rows the table of metrics has; the trained weights do not depend on them.
"""

from typing import Literal

from pydantic import Field

from pipeline.config import Config

Tracker = Literal["tensorboard", "mlflow", "wandb"]


class Execution(Config):
    """Parallelism, checkpoints, loading and metrics of a stage. None of them is part of an id."""

    parallel: Literal["auto", "ddp", "fsdp"] = Field(
        default="auto",
        description="how several workers share a step: DDP, or FSDP2, which shards weights, gradients and optimizer; "
        "auto takes DDP; precision bf16_parameters always takes FSDP2, which keeps its fp32 masters",
    )
    activation_checkpointing: bool = Field(default=False, description="recompute blocks in backward to save memory")
    compile: bool = Field(default=False, description="torch.compile for each block")
    loader_processes: int | None = Field(
        default=None,
        ge=0,
        description="processes of each worker that decode images; 0 for a thread, default: the worker's CPUs less one",
    )
    read_ahead: int = Field(default=4, ge=1, description="micro-batches that are prepared ahead by each process")
    log_every: int = Field(default=10, ge=1, description="optimiser steps between two rows of metrics")
    held_out_every: int | None = Field(
        default=None, ge=1, description="optimiser steps between two held-out losses; there is always one at the end"
    )
    checkpoint_minutes: float = Field(
        default=10.0, gt=0, description="minutes between two checkpoints; each is at a step with a row of metrics"
    )
    checkpoint_steps: int | None = Field(
        default=None, ge=1, description="optimiser steps between two checkpoints, in place of checkpoint_minutes"
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="latest checkpoints that are kept while a stage trains")
    trackers: tuple[Tracker, ...] = Field(
        default=("tensorboard",),
        description="programs that get the metrics too; mlflow and wandb must be installed",
    )
