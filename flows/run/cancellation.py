"""Hooks that Prefect runs in another process when a flow run is cancelled or its process dies."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
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
from prefect.states import Cancelled, Crashed

from flows.run.bounded import within
from flows.run.ray_jobs import RayJobs
from flows.run.run_file import OPEN, RunRecord, begin_cancel, close_run, read_run
from flows.run.settings import read_settings
from flows.run.shared_jobs import jobs_of, stop_job
from model.errors import AgevlmError, StepError
from pipeline.artifacts.store import ArtifactStore

LOOKS, LOOK_SECONDS = 3, 2.0
"""A job whose submission was under way when the flow process was killed appears a moment later."""
STORE_SECONDS = 5.0
"""Longest time for asking the store for the run's file, before Ray alone tells which jobs it has."""


def stop_jobs(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Cancellation hook: stop every living Ray job of the flow run, even if its process is gone already.

    Prefect calls hooks by keyword, so the three names are fixed.
    """
    log = get_logger("agevlm.cancellation")
    try:
        end_cancel(str(flow_run.id))
    except Exception as error:  # the library of an object store raises errors of many types
        log.error("flow run %s: its jobs could not be stopped, or its end not be written: %s", flow_run.id, error)
    _close_task_runs(flow_run.id, Cancelled(message="the flow run was cancelled"), log)


def end_cancel(flow_run_id: str) -> None:
    """Stop the living Ray jobs of a cancelled flow run, and give its run file its final state.

    Raises StepError, and what the store raises.
    """
    log = get_logger("agevlm.cancellation")
    settings = read_settings()
    store = ArtifactStore(settings.store)
    record = _record(store, flow_run_id, log)
    if record is not None and record.state not in OPEN:
        return  # the flow's own process stopped its jobs, or the run is over
    _mark(store, flow_run_id, log)
    client, refusals = RayJobs(settings.jobs_url), list[str]()

    def stop(job: str) -> str:
        try:
            stop_job(client, store, job, flow_run_id, log.info)
        except AgevlmError as error:  # the other jobs are stopped all the same
            return str(error)
        return ""

    for look in range(LOOKS):
        time.sleep(LOOK_SECONDS if look else 0.0)
        jobs = jobs_of(client, record, flow_run_id)
        with ThreadPoolExecutor(max(1, len(jobs))) as pool:  # at once: each may take seconds to end
            refusals = [refusal for refusal in pool.map(stop, jobs) if refusal]
    if refusals:
        raise StepError("; ".join(refusals))
    if record is not None:
        close_run_file(store, flow_run_id, "cancelled", "the flow run was cancelled")


def _record(store: ArtifactStore, flow_run_id: str, log: Any) -> RunRecord | None:
    """The run's record; None if it has none or it cannot be read: the jobs' metadata in Ray still names their run."""
    try:
        return within(STORE_SECONDS, lambda: read_run(store, flow_run_id))
    except Exception as error:  # damaged, or the store is away
        log.warning("the run file of %s cannot be read: %s", flow_run_id, error)
        return None


def _mark(store: ArtifactStore, flow_run_id: str, log: Any) -> None:
    """Mark the run as being cancelled. A store that cannot be written must not keep the jobs alive."""
    try:
        within(STORE_SECONDS, lambda: begin_cancel(store, flow_run_id))
    except Exception as error:
        log.warning("the cancel of %s was not written: %s", flow_run_id, error)


def note_crash(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Crash hook: mark the run file and the task runs as crashed. The jobs go on, and the next run joins them."""
    log = get_logger("agevlm.cancellation")
    message = state.message or "the flow process died"
    try:
        close_run_file(ArtifactStore(read_settings().store), str(flow_run.id), "crashed", message)
    except (AgevlmError, OSError) as error:
        log.error("the run file of %s could not be closed: %s", flow_run.id, error)
    _close_task_runs(flow_run.id, Crashed(message=message), log)


def _close_task_runs(flow_run_id: UUID, state: State[Any], log: Any) -> None:
    try:
        close_task_runs(flow_run_id, state)
    except (httpx.HTTPError, PrefectException) as error:
        log.error("the task runs of %s could not be closed: %s", flow_run_id, error)


def close_task_runs(flow_run_id: UUID, state: State[Any]) -> None:
    """Give the unfinished task runs of a dead flow process this state; Prefect would show them as running forever."""
    unfinished = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    )
    with get_client(sync_client=True) as client:
        mine = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        for run in client.read_task_runs(flow_run_filter=mine, task_run_filter=unfinished):
            client.set_task_run_state(run.id, state, force=True)


def close_run_file(
    store: ArtifactStore, flow_run_id: str, state: Literal["cancelled", "crashed"], message: str
) -> None:
    """Give the run file of a dead flow process its final state, if it has none."""
    record = read_run(store, flow_run_id)
    if record is not None:
        close_run(store, record, state, message)
