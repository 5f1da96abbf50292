"""Flow runs whose process is gone: after a power cut or kill -9 Prefect would show them as running for ever."""

from typing import Any

import psutil

from flows.state import StackState
from flows.web import answers

UNFINISHED = ["RUNNING", "CANCELLING", "PENDING"]
RUN_ID = "PREFECT__FLOW_RUN_ID"
"""Prefect's worker gives a flow's process its run's id in this variable."""


def crash_lost_runs(state: StackState) -> list[str]:
    """Mark unfinished runs of deployments as crashed if no process on this machine works on them.

    Only for a server that was just started and has no worker yet: then whatever a worker had started is either still
    alive here, or gone. Returns the names of the runs that were marked.
    """
    api = state.url("prefect") + "/api"
    runs: Any = answers(
        f"{api}/flow_runs/filter",
        body={"flow_runs": {"state": {"type": {"any_": UNFINISHED}}}, "limit": 200},
    )
    if not isinstance(runs, list) or not runs:
        return []
    alive = {run_id for process in psutil.process_iter() if (run_id := flow_run_of(process))}
    marked = []
    for run in runs:
        if run["id"] in alive or run.get("deployment_id") is None:
            continue
        crashed = {"type": "CRASHED", "name": "Crashed", "message": "Its process ended together with the local stack."}
        if answers(f"{api}/flow_runs/{run['id']}/set_state", body={"state": crashed, "force": True}) is not None:
            marked.append(str(run["name"]))
    return marked


def flow_run_of(process: psutil.Process) -> str:
    """Id of the flow run that a process works on, or ''."""
    try:
        return process.environ().get(RUN_ID, "")
    except (psutil.Error, OSError):
        return ""
