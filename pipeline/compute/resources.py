"""The resources that a step asks Ray for."""

import os
from typing import Self

from pydantic import Field, model_validator

from pipeline.config import Config


class Resources(Config):
    """CPUs, GPUs and processes of a step. Never part of an id."""

    cpus: float = Field(default=1, ge=0, description="CPUs of each worker, actor or task")
    gpus: float = Field(default=0, ge=0, description="GPUs of each worker or actor")
    workers: int = Field(default=1, ge=1, description="Ray Train workers, teacher actors, or tasks that run at once")
    min_workers: int | None = Field(
        default=None,
        ge=1,
        description="start or go on with as few Ray Train workers as this while there is no room for all; default: all",
    )
    threads: int = Field(default=1, ge=1, description="CPU threads of torch in each worker")
    micro_batch: int = Field(default=16, ge=1, description="samples of one forward pass in training")

    @model_validator(mode="after")
    def _fewer_at_least(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers = {self.min_workers} is more than workers = {self.workers}")
        return self

    def __str__(self) -> str:
        """For people: '2 CPU', '8 x 2 CPU + 1 GPU'."""
        times = f"{self.workers} x " if self.workers > 1 else ""
        return f"{times}{self.cpus:g} CPU{f' + {self.gpus:g} GPU' if self.gpus else ''}"


def usable_cpus() -> int:
    """CPUs that this process may run on; the machine's CPUs where the operating system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
