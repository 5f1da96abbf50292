"""Connecting to Ray: the cluster of the job that we run in, or a small session of our own."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

JOB_VARIABLES = ("RAY_JOB_CONFIG_JSON_ENV_VAR", "AGEVLM_SUBMISSION_ID")
LOCAL_OBJECT_STORE = 512 * 1024 * 1024  # bytes: shards are tens of megabytes, and laptops have small /dev/shm


def in_job() -> bool:
    """Whether this process is the driver of a Ray job, so that a cluster is there to be joined."""
    return "RAY_ADDRESS" in os.environ and any(name in os.environ for name in JOB_VARIABLES)


def connect(cpus: int | None = None, gpus: int | None = None) -> bool:
    """Join the job's cluster, or start a small local session without a dashboard; harmless if connected already.

    Args:
        cpus: CPUs of a local session; by default the machine's, and at least 2: one decodes, one runs the models.
        gpus: GPUs of a local session; by default those that Ray finds.

    Returns True if a local session was started, which the caller may end with `disconnect`.
    """
    import ray

    if ray.is_initialized():
        return False
    if in_job():
        ray.init(logging_level=logging.WARNING)
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # a parent 'uv run' must not be run again by workers
    ray.init(
        address="local",  # never somebody else's cluster that happens to run on this machine
        num_cpus=cpus if cpus is not None else max(2, os.cpu_count() or 2),
        num_gpus=gpus,
        object_store_memory=LOCAL_OBJECT_STORE,
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=True,
    )
    return True


def disconnect() -> None:
    """Leave Ray; a local session ends with it."""
    import ray

    ray.shutdown()


@contextmanager
def session(cpus: int | None = None, gpus: int | None = None) -> Iterator[None]:
    """Be connected inside the `with`; a local session that was started for it ends with it."""
    started = connect(cpus, gpus)
    try:
        yield
    finally:
        if started:
            disconnect()
