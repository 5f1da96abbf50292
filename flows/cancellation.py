"""Hooks that Prefect runs in another process when a flow run is cancelled or its process dies."""

from typing import Any

from prefect import Flow, State
from prefect.client.schemas.objects import FlowRun
from prefect.logging import get_logger

from flows.ray_jobs import JobClient, RayJobs
from flows.run_state import FINISHED, RunRecord, read_run, run_path
from flows.settings import read_settings
from model.errors import AgevlmError
from pipeline.artifacts.store import ArtifactStore


def stop_jobs(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Cancellation: stop every living Ray job of the flow run, also where its process is gone already.

    Prefect calls hooks by keyword: the three names are its own.
    """
    log = get_logger("agevlm.cancellation")
    try:
        settings = read_settings()
        store = ArtifactStore(settings.store)
        record = read_run(store, str(flow_run.id))
        if record is not None and record.state == "cancelled":
            return  # the flow's own process stopped its jobs
        for job in stop_jobs_of(RayJobs(settings.jobs_url), record, str(flow_run.id)):
            log.info("stopped Ray job %s", job)
        close_run_file(store, str(flow_run.id), "cancelled", "the flow run was cancelled")
    except AgevlmError as error:
        log.error("the jobs of flow run %s could not be stopped: %s", flow_run.id, error)


def note_crash(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Crash: say so in the run file. The jobs live on, and the next run joins them."""
    try:
        store = ArtifactStore(read_settings().store)
        close_run_file(store, str(flow_run.id), "crashed", state.message or "the flow process died")
    except AgevlmError as error:
        get_logger("agevlm.cancellation").error("the run file of %s could not be closed: %s", flow_run.id, error)


def stop_jobs_of(client: JobClient, record: RunRecord | None, flow_run_id: str) -> list[str]:
    """Stop the jobs that a flow run started or joined. Returns those that were alive."""
    followed = {s.job for s in record.steps if s.state not in FINISHED or s.state == "cancelled"} if record else set()
    stopped = []
    for job in client.jobs():
        if job.alive and (job.id in followed or job.metadata.get("flow_run_id") == flow_run_id):
            client.stop(job.id)
            stopped.append(job.id)
    return stopped


def close_run_file(store: ArtifactStore, flow_run_id: str, state: str, message: str) -> None:
    """Give the run file of a dead flow process its final state, if it has none."""
    record = read_run(store, flow_run_id)
    if record is not None and record.state == "running":
        steps = tuple(
            step.model_copy(update={"state": "cancelled", "message": message}) if step.state == "running" else step
            for step in record.steps
        )
        closed = record.model_copy(update={"state": state, "message": message, "steps": steps})
        store.write_json(run_path(flow_run_id), closed.model_dump(mode="json"))
