"""Connecting to Ray: the cluster of the Ray job that this process drives, or a small local session."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from model.errors import StepError

SLOW_START = "timed out during startup"
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
START_ATTEMPTS = 4  # Ray gives its own processes 30 s to start, which a busy machine can miss
LOCAL_OBJECT_STORE = 512 * 1024 * 1024  # bytes: shards are tens of megabytes, and laptops have small /dev/shm


def in_job() -> bool:
    """True if this process is the driver of a Ray job, so that there is a cluster to join."""
    return "RAY_ADDRESS" in os.environ and JOB_CONFIG in os.environ


def connect(cpus: int | None = None, gpus: int | None = None) -> bool:
    """Join the job's cluster, or start a small local session without a dashboard. Does nothing if connected already.

    Args:
        cpus: CPUs of a local session; by default the machine's, and at least 2: one to decode, one to run the models.
        gpus: GPUs of a local session; by default all that Ray finds.

    Returns True if a local session was started, which the caller may end with `disconnect`.
    Raises StepError if the local session cannot be started.
    """
    import ray

    if ray.is_initialized():
        return False
    if in_job():
        ray.init(logging_level=logging.WARNING)
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray lowers its workers' priority: on a busy machine they starve
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else workers of a 'uv run' process call uv again
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _start(cpus, gpus)
            return True
        except Exception as error:  # Ray raises a bare Exception when its own start takes too long
            ray.shutdown()
            if SLOW_START not in str(error) or attempt == START_ATTEMPTS:
                raise StepError(f"a local Ray session cannot be started: {error}") from error
            print(f"Ray did not start in time (attempt {attempt}); trying again", flush=True)
    return True


def _start(cpus: int | None, gpus: int | None) -> None:
    import ray

    ray.init(
        address="local",  # never join a cluster of another user or project on this machine
        num_cpus=cpus if cpus is not None else max(2, os.cpu_count() or 2),
        num_gpus=gpus,
        object_store_memory=LOCAL_OBJECT_STORE,
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=True,
    )


def disconnect() -> None:
    """Leave Ray; a local session ends with it."""
    import ray

    ray.shutdown()


@contextmanager
def session(cpus: int | None = None, gpus: int | None = None) -> Iterator[None]:
    """Connect to Ray for a `with` block. A local session that it started ends with the block."""
    started = connect(cpus, gpus)
    try:
        yield
    finally:
        if started:
            disconnect()
