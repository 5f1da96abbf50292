"""Ray jobs that several flow runs may share: the jobs of a run, who else waits for one, and stopping one on cancel."""

from collections.abc import Callable

from flows.run.bounded import within
from flows.run.ray_jobs import JobClient
from flows.run.run_file import RunRecord, run_records
from pipeline.artifacts.store import ArtifactStore

STORE_SECONDS = 4.0
"""Longest time for asking the store who else waits for a job: a cancel is not held up by a store that is away."""


def jobs_of(client: JobClient, record: RunRecord | None, flow_run_id: str) -> list[str]:
    """The living jobs that a flow run started or was following."""
    followed = {step.job for step in record.steps if step.state in ("running", "cancelled")} if record else set()
    return [
        job.id
        for job in client.jobs()
        if job.alive and (job.id in followed or job.metadata.get("flow_run_id") == flow_run_id)
    ]


def stop_job(client: JobClient, store: ArtifactStore, job: str, flow_run_id: str, log: Callable[[str], None]) -> None:
    """Stop a job unless another flow run joined it. Raises StepError if Ray does not do it.

    The run itself must be marked as cancelled before this call: if two runs are cancelled at once, the later one then
    sees that no other run waits for the job. If the store does not answer, the job is stopped.
    """
    try:
        others = within(STORE_SECONDS, lambda: followed_by_others(store, job, flow_run_id))
    except Exception as error:  # the library of an object store raises errors of many types
        log(f"the store does not tell whether another flow run waits for Ray job {job}: {error}")
        others = []
    if others:
        log(f"Ray job {job} goes on: flow run {others[0]} waits for it too")
    else:
        log(f"stopping Ray job {job}")
        client.stop(job)


def followed_by_others(store: ArtifactStore, job: str, flow_run_id: str) -> list[str]:
    """Ids of the other flow runs that are running, are not being cancelled, and wait for this Ray job.

    A run whose file cannot be read, or is of another version, waits for nothing.
    """
    return [
        other.flow_run_id
        for other in run_records(store)
        if other.flow_run_id != flow_run_id
        and other.state == "running"
        and any(step.job == job and step.state == "running" for step in other.steps)
    ]
