"""The resources that a step asks Ray for."""

import os
from typing import Self

from pydantic import Field, model_validator

from pipeline.config import Config, added_later


class Pool(Config):
    """A second pool of actors. Never part of an id."""

    cpus: float = Field(default=1, ge=0, description="CPUs of each actor")
    gpus: float = Field(default=0, ge=0, description="GPUs of each actor")
    workers: int = Field(default=1, ge=1, description="actors")


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
    second_pool: Pool | None = added_later(
        None,
        description="segment: actors for the teacher's phases after the first (SAM), while the other fields are those "
        "of the first (Florence-2); default: each actor holds all phases",
    )

    @model_validator(mode="after")
    def _fewer_at_least(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers = {self.min_workers} is more than workers = {self.workers}")
        return self

    @model_validator(mode="after")
    def _both_on_gpus(self) -> Self:
        if self.second_pool is not None and (self.gpus > 0) != (self.second_pool.gpus > 0):
            raise ValueError(
                f"gpus = {self.gpus:g} and second_pool.gpus = {self.second_pool.gpus:g}: give GPUs to both pools, or "
                "to none"
            )
        return self

    @property
    def all_cpus(self) -> float:
        """CPUs of all workers together."""
        return self.workers * self.cpus + (self.second_pool.workers * self.second_pool.cpus if self.second_pool else 0)

    @property
    def all_gpus(self) -> float:
        """GPUs of all workers together."""
        return self.workers * self.gpus + (self.second_pool.workers * self.second_pool.gpus if self.second_pool else 0)

    @property
    def gpus_of_one(self) -> float:
        """GPUs of one worker that does the work of both pools: fractions are added, up to one GPU."""
        if self.second_pool is None:
            return self.gpus
        return max(self.gpus, self.second_pool.gpus, min(1.0, self.gpus + self.second_pool.gpus))

    def __str__(self) -> str:
        """For people: '2 CPU', '8 x 2 CPU + 1 GPU'; the pools joined by 'and'."""
        return _size(self) + (f" and {_size(self.second_pool)}" if self.second_pool else "")


def _size(of: Resources | Pool) -> str:
    times = f"{of.workers} x " if of.workers > 1 else ""
    return f"{times}{of.cpus:g} CPU{f' + {of.gpus:g} GPU' if of.gpus else ''}"


def usable_cpus() -> int:
    """CPUs that this process may use: as the local stack says in $AGEVLM_CPUS, else those that it may run on."""
    told = os.environ.get("AGEVLM_CPUS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
