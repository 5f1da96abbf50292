"""Stopping the Ray jobs of a cancelled flow run, but none that another flow run waits for."""

from collections.abc import Callable

from flows.ray_jobs import JobClient
from flows.run_state import RunRecord, followed_by_others
from pipeline.artifacts.store import ArtifactStore


def stop_job(client: JobClient, store: ArtifactStore, job: str, flow_run_id: str, log: Callable[[str], None]) -> None:
    """Stop a job unless another flow run joined it. Raises StepError if Ray does not do it.

    The run's own file must say 'cancelling' before: of two runs that are cancelled at once, the later one then sees
    that nobody waits for the job.
    """
    others = followed_by_others(store, job, flow_run_id)
    if others:
        log(f"Ray job {job} goes on, for flow run {others[0]} waits for it too")
    else:
        log(f"stopping Ray job {job}")
        client.stop(job)


def jobs_of(client: JobClient, record: RunRecord | None, flow_run_id: str) -> list[str]:
    """The living jobs that a flow run started or was following."""
    followed = {step.job for step in record.steps if step.state in ("running", "cancelled")} if record else set()
    return [
        job.id
        for job in client.jobs()
        if job.alive and (job.id in followed or job.metadata.get("flow_run_id") == flow_run_id)
    ]
