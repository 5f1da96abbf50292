"""Ray jobs that several flow runs may share: the jobs of a run, who else waits for one, and stopping one on cancel."""

from collections.abc import Callable

from flows.run.ray_jobs import JobClient
from flows.run.run_file import RunRecord, read_run
from model.errors import ConfigError
from pipeline.artifacts.store import ArtifactStore


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

    The run's own file must say 'cancelling' before this call: if two runs are cancelled at once, the later one then
    sees that no other run waits for the job.
    """
    others = followed_by_others(store, job, flow_run_id)
    if others:
        log(f"Ray job {job} goes on: flow run {others[0]} waits for it too")
    else:
        log(f"stopping Ray job {job}")
        client.stop(job)


def followed_by_others(store: ArtifactStore, job: str, flow_run_id: str) -> list[str]:
    """Ids of the other flow runs that are running, are not being cancelled, and wait for this Ray job.

    A run whose file cannot be read, or is of another version, waits for nothing.
    """
    found = []
    for path in store.fs.ls(store.join("runs"), detail=False):
        if not str(path).endswith(".json"):  # an event log
            continue
        try:
            other = read_run(store, str(path).split("/")[-1].removesuffix(".json"))
        except ConfigError:
            continue
        if other is None or other.flow_run_id == flow_run_id or other.state != "running":
            continue
        if any(step.job == job and step.state == "running" for step in other.steps):
            found.append(other.flow_run_id)
    return found
