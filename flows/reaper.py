"""Flow runs whose process is gone: after a power cut or kill -9 Prefect would show them as running for ever."""

from typing import Any

import psutil

from flows.home import store_root
from flows.processes import environment_of
from flows.state import StackError, StackState
from flows.web import answers, insist
from model.errors import AgevlmError

UNFINISHED = ["RUNNING", "CANCELLING", "PENDING"]
RUN_ID = "PREFECT__FLOW_RUN_ID"
"""Prefect's worker gives a flow's process its run's id in this variable."""
MESSAGE = "Its process ended together with the local stack."
CRASHED = {"state": {"type": "CRASHED", "name": "Crashed", "message": MESSAGE}, "force": True}


def crash_lost_runs(state: StackState) -> list[str]:
    """Mark unfinished runs of deployments as crashed if no process on this machine works on them.

    Only while there is no worker: then whatever one had started is either still alive here, or gone. The run's tasks
    and its run file are closed before it, so that what is interrupted here is found again. Jobs live on, and the next
    run joins them. Returns the names of the runs that were marked. Raises StackError if Prefect does not list its runs.
    """
    api = state.url("prefect") + "/api"
    body = {"flow_runs": {"state": {"type": {"any_": UNFINISHED}}}, "limit": 200}
    try:
        runs: Any = insist(f"{api}/flow_runs/filter", body, timeout=30)
    except OSError as error:
        raise StackError(f"Prefect does not list its flow runs ({error}); see 'agevlm status'") from error
    started = [run for run in runs if run.get("deployment_id") is not None]
    alive = {flow_run_of(process) for process in psutil.process_iter()} if started else set()
    marked = []
    for run in started:
        if run["id"] in alive:
            continue
        _crash_tasks(api, run["id"])
        problem = _close_run_file(state, run["id"])
        if answers(f"{api}/flow_runs/{run['id']}/set_state", body=CRASHED) is not None:
            marked.append(f"{run['name']}{problem}")
    return marked


def _crash_tasks(api: str, flow_run_id: str) -> None:
    body = {
        "flow_runs": {"id": {"any_": [flow_run_id]}},
        "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
        "limit": 200,
    }
    for task in answers(f"{api}/task_runs/filter", body=body, timeout=30) or []:
        answers(f"{api}/task_runs/{task['id']}/set_state", body=CRASHED)


def _close_run_file(state: StackState, flow_run_id: str) -> str:
    """Say in the run file that the run crashed. Returns what was wrong with it, for a message, or ''."""
    from flows.run_state import closed, read_run, write_run
    from pipeline.artifacts.store import ArtifactStore

    try:
        store = ArtifactStore(state.store or store_root())
        record = read_run(store, flow_run_id)
        if record is not None:
            write_run(store, closed(record, "crashed", MESSAGE))
    except (AgevlmError, OSError) as error:
        return f" (its run file stays open: {error})"
    return ""


def flow_run_of(process: psutil.Process) -> str:
    """Id of the flow run that a process works on, or ''."""
    return environment_of(process).get(RUN_ID, "")
