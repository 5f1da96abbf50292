"""Prefect's worker: it starts a process for each flow run."""

import sys
from typing import Any

from infra.local.folders import Folders
from infra.local.private import own_folder
from infra.local.processes import spawn
from infra.local.roles.prefect import POOL, prefect_api
from infra.local.stack_file import ProcessRecord, StackState

FLOW_RUNS = 4
"""Flow runs at once. It does not depend on the number of cores: a flow run only waits for its Ray jobs."""


def start(folders: Folders, state: StackState) -> ProcessRecord:
    """Start the worker under the recorded name, which no other worker has."""
    folder = folders.worker_temporary
    own_folder(folder, "remove it, or set AGEVLM_HOME to a folder of your own")
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    words = [*command, "--limit", str(FLOW_RUNS), "--name", state.worker]
    return spawn(folders, "worker", words, state, {"TMPDIR": str(folder)})


def ready(folders: Folders, state: StackState) -> bool:
    """True if the server has heard from the worker."""
    workers: Any = prefect_api(folders, state).answers(f"/work_pools/{POOL}/workers/filter", body={})
    if not isinstance(workers, list):
        return False
    return any(worker.get("name") == state.worker and worker.get("status") == "ONLINE" for worker in workers)
