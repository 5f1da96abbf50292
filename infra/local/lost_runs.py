"""Flow runs whose process is gone: after a power cut or kill -9 Prefect would list them as running for ever."""

from collections.abc import Callable
from typing import Any

import psutil

from infra.local.processes import environment_of
from infra.local.stack_file import StackError
from infra.local.web import Server

UNFINISHED = ["RUNNING", "CANCELLING", "PENDING"]
RUN_ID = "PREFECT__FLOW_RUN_ID"
"""Prefect's worker gives a flow's process the id of its run in this variable."""
MESSAGE = "Its process ended together with the local stack."
CRASHED = {"state": {"type": "CRASHED", "name": "Crashed", "message": MESSAGE}, "force": True}
CANCELLED = {
    "state": {"type": "CANCELLED", "name": "Cancelled", "message": "Its Ray jobs were stopped."},
    "force": True,
}

CloseRun = Callable[[str, str, str], str]
"""(artifact store, flow run id, message) -> problem, or ''. Records in the project's own notes that a run crashed."""

EndCancel = Callable[[str, str], str]
"""(artifact store, flow run id) -> problem, or ''. Stops the Ray jobs of a run that was being cancelled."""


def cancel_lost_runs(api: Server, store: str, end_cancel: EndCancel) -> list[str]:
    """End the cancel of runs that were being cancelled when their process was lost: their Ray jobs must not go on.

    Call it as `crash_lost_runs` and before it, which then finds those whose jobs could not be stopped. Returns the
    names of the runs, each with the problem that `end_cancel` reported. Raises StackError as `crash_lost_runs` does.
    """
    found = []
    for run in _lost(api, ["CANCELLING"]):
        problem = end_cancel(store, run["id"])
        if not problem:
            _close_tasks(api, run["id"], CANCELLED)
            api.answers(f"/flow_runs/{run['id']}/set_state", CANCELLED)
        found.append(f"{run['name']} ({problem})" if problem else run["name"])
    return found


def crash_lost_runs(api: Server, store: str, close_run: CloseRun) -> list[str]:
    """Mark unfinished runs of deployments as crashed if no process on this machine works on them.

    Call it only while there is no worker: then the process of a run is either alive on this machine or gone. Ray jobs
    go on, and the next run joins them. Returns the names of the marked runs, each with the problem that `close_run`
    reported. Raises StackError if Prefect does not list its runs.
    """
    marked = []
    for run in _lost(api, UNFINISHED):
        # The run itself comes last: if this is interrupted, the next call finds the run again.
        _close_tasks(api, run["id"], CRASHED)
        problem = close_run(store, run["id"], MESSAGE)
        if api.answers(f"/flow_runs/{run['id']}/set_state", CRASHED) is not None:
            marked.append(f"{run['name']} ({problem})" if problem else run["name"])
    return marked


def _lost(api: Server, states: list[str]) -> list[Any]:
    """Runs of deployments in these states on which no process of this machine works."""
    body = {"flow_runs": {"state": {"type": {"any_": states}}}, "limit": 200}
    try:
        runs: Any = api.insist("/flow_runs/filter", body, timeout=30)
    except OSError as error:
        raise StackError(f"Prefect does not list its flow runs ({error}); see 'agevlm status'") from error
    # A run without a deployment was started by hand, maybe on another machine.
    started = [run for run in runs if run.get("deployment_id") is not None]
    alive = {flow_run_of(process) for process in psutil.process_iter()} if started else set()
    return [run for run in started if run["id"] not in alive]


def _close_tasks(api: Server, flow_run_id: str, state: dict[str, Any]) -> None:
    body = {
        "flow_runs": {"id": {"any_": [flow_run_id]}},
        "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
        "limit": 200,
    }
    for task in api.answers("/task_runs/filter", body, timeout=30) or []:
        api.answers(f"/task_runs/{task['id']}/set_state", state)


def flow_run_of(process: psutil.Process) -> str:
    """Id of the flow run that a process works on, or ''."""
    return environment_of(process).get(RUN_ID, "")
