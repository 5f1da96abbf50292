"""Hooks that Prefect runs in another process when a flow run is cancelled or its process dies."""

from typing import Any
from uuid import UUID

import httpx
from prefect import Flow, State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException
from prefect.logging import get_logger
from prefect.states import Crashed

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
    """Crash: say so in the run file and in the task runs. The jobs live on, and the next run joins them."""
    log = get_logger("agevlm.cancellation")
    message = state.message or "the flow process died"
    try:
        close_run_file(ArtifactStore(read_settings().store), str(flow_run.id), "crashed", message)
    except AgevlmError as error:
        log.error("the run file of %s could not be closed: %s", flow_run.id, error)
    try:
        close_task_runs(flow_run.id, message)
    except (httpx.HTTPError, PrefectException) as error:
        log.error("the task runs of %s could not be closed: %s", flow_run.id, error)


def close_task_runs(flow_run_id: UUID, message: str) -> None:
    """Mark the unfinished task runs of a dead flow process as crashed: Prefect would show them as running for ever."""
    unfinished = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    )
    with get_client(sync_client=True) as client:
        mine = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        for run in client.read_task_runs(flow_run_filter=mine, task_run_filter=unfinished):
            client.set_task_run_state(run.id, Crashed(message=message), force=True)


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
