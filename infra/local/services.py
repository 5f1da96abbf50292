"""The three processes of the local stack: starts each of them and checks that it is ready."""

import os
import secrets
import shlex
import sys
from pathlib import Path
from typing import Any

import psutil

from infra.local.folders import SOCKET_FOLDER_LENGTH, Folders
from infra.local.ports import free_ports, is_free
from infra.local.processes import programs, spawn, usable_cpus
from infra.local.stack_file import ProcessRecord, StackError, StackState
from infra.local.web import Refused, answers, insist

POOL = "local"
FLOW_RUNS = 4
"""Flow runs at once. It does not depend on the number of cores: a flow run only waits for its Ray jobs."""

MINIMUM_CPUS = FLOW_RUNS + 1
"""Ray's CPUs are logical: it counts them and pins no process to a core. A training worker holds one CPU (Ray Train's
controller none). So does the model actor of `segment`, which then waits for another half CPU for decoding. Each flow
run plans with the whole machine. So FLOW_RUNS runs could hold one CPU each and all wait for that half: one CPU more
than FLOW_RUNS prevents this deadlock."""

PORTS = {
    "prefect": ("prefect",),
    "ray": ("ray_gcs", "ray_dashboard", "ray_client", "ray_dashboard_metrics"),
    "worker": (),
}
"""Ports that are chosen and recorded for each role. Ray itself binds the others to port 0, so they are always free."""

RAY_CHILDREN = {"gcs_server", "raylet", "dashboard.py"}
"""Programs without which Ray's head does no work."""

MEBIBYTE = 1 << 20


def with_ports(state: StackState, role: str) -> StackState:
    """The state with ports for a role. Recorded ports are kept if they are free, so that addresses stay the same."""
    names = PORTS[role]
    if all(name in state.ports and is_free(state.ports[name]) for name in names):
        return state
    return state.model_copy(update={"ports": {**state.ports, **dict(zip(names, free_ports(len(names)), strict=True))}})


def start(folders: Folders, role: str, state: StackState) -> ProcessRecord:
    """Start the process of a role; its ports must be chosen already."""
    return {"prefect": _start_prefect, "ray": _start_ray, "worker": _start_worker}[role](folders, state)


def ready(folders: Folders, role: str, state: StackState) -> bool:
    """True if a role does its work."""
    if role == "ray":
        return _ray_ready(state, read_token(folders))
    return _prefect_ready(state) if role == "prefect" else _worker_ready(state)


def must_restart(role: str, state: StackState) -> bool:
    """True if a role's process lives but cannot work again: `ray start --block` ignores children that end in order.

    A raylet ends in order after one of its agents was killed, and every child does after SIGTERM.
    """
    return role == "ray" and not RAY_CHILDREN.issubset(programs(state, role))


def url(role: str, state: StackState) -> str:
    """Address of a role's web page, or '' if it has none."""
    ports = {"prefect": "prefect", "ray": "ray_dashboard"}
    return state.url(ports[role]) if role in ports else ""


# -- Prefect's server


def _start_prefect(folders: Folders, state: StackState) -> ProcessRecord:
    folders.prefect.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start"]
    port = state.ports["prefect"]
    # By default any page in the user's browser may send requests to this server, for example to start a run.
    origins = ",".join(f"http://{host}:{port}" for host in ("127.0.0.1", "localhost"))
    extra = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins}
    return spawn(folders, "prefect", [*command, "--host", "127.0.0.1", "--port", str(port)], state, extra)


def _prefect_ready(state: StackState) -> bool:
    return answers(state.url("prefect") + "/api/health", timeout=5) is not None


def make_pool(state: StackState) -> None:
    """Create the work pool of type process, unless it exists. Raises StackError if Prefect refuses."""
    pools = state.url("prefect") + "/api/work_pools/"
    pool = {"name": POOL, "type": "process", "description": "flows of agevlm on this machine"}
    try:
        insist(pools, pool, timeout=30)
    except OSError as error:
        if not (isinstance(error, Refused) and error.status == 409):  # 409: it exists
            raise StackError(f"Prefect did not create the work pool '{POOL}': {error}; see 'agevlm status'") from error


# -- Ray's head node


def make_token(path: Path) -> None:
    """Write the token that Ray's servers will ask for, unless it exists. Only its owner can read it."""
    if path.exists():
        path.chmod(0o600)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))


def read_token(folders: Folders) -> str:
    """The token of this home's Ray, or '' if its file is gone; Ray then refuses every request."""
    try:
        return folders.ray_token.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""


def token_hint(folders: Folders) -> str:
    """A few words on how to read the token that Ray's page asks for; never the token itself."""
    path = shlex.quote(str(folders.ray_token))
    if not folders.ray_token.exists():
        return f"asks for a token, but {path} is gone: end the stack with 'agevlm down' and start it again"
    return f"asks once for a token: cat {path}"


def make_ray_folder(folder: Path) -> None:
    """Create Ray's temporary folder, for its owner only. Raises StackError if it belongs to another user."""
    remedy = f"set AGEVLM_HOME to a path of at most {SOCKET_FOLDER_LENGTH - 4} bytes that you own"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        foreign = folder.is_symlink() or folder.stat().st_uid != os.getuid()
    except OSError as error:
        raise StackError(f"Ray's temporary folder {folder} cannot be created ({error}); {remedy}") from error
    if foreign:
        raise StackError(f"{folder} belongs to another user or is a link; {remedy}")


def logical_cpus() -> int:
    """Number of CPUs that Ray is started with."""
    return max(MINIMUM_CPUS, usable_cpus())


def object_store_bytes() -> int:
    """Size of Ray's shared memory: 512 MiB, or 1 GiB on a machine with 24 GiB or more."""
    return (1024 if psutil.virtual_memory().total >= 24 << 30 else 512) * MEBIBYTE


def ray_command(state: StackState, folder: Path) -> list[str]:
    """The command of Ray's head node: on the loopback interface, with recorded ports or with ports that Ray finds."""
    ports = state.ports
    return [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--port={ports['ray_gcs']}",
        "--include-dashboard=true",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={ports['ray_dashboard']}",
        "--dashboard-agent-listen-port=0",  # 0: the process finds a free port itself
        f"--ray-client-server-port={ports['ray_client']}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--num-cpus={state.cpus}",
        f"--object-store-memory={object_store_bytes()}",
        f"--temp-dir={folder}",
        "--disable-usage-stats",
        "--no-monitor",  # no autoscaler: this cluster never grows
    ]


def _start_ray(folders: Folders, state: StackState) -> ProcessRecord:
    make_token(folders.ray_token)
    make_ray_folder(folders.ray)
    extra = {
        # Without this Ray replaces 127.0.0.1 by an address of the network. "0": no cluster of several hosts.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "DASHBOARD_METRIC_PORT": str(state.ports["ray_dashboard_metrics"]),
        "SPT_NOENV": "1",  # Ray renames its processes: keeps their environments readable, which carry the stack's id
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # the default of 60 is too short for a busy laptop
        "RAY_COLOR_PREFIX": "0",
    }
    return spawn(folders, "ray", ray_command(state, folders.ray), state, extra)


def _ray_ready(state: StackState, token: str) -> bool:
    nodes: Any = answers(state.url("ray_dashboard") + "/nodes?view=summary", token=token, timeout=10)
    if not isinstance(nodes, dict):
        return False
    summary = (nodes.get("data") or {}).get("summary") or []
    alive = [node for node in summary if (node.get("raylet") or {}).get("state") == "ALIVE"]
    return bool(alive) and answers(state.url("ray_dashboard") + "/api/jobs/", token=token) is not None


# -- Prefect's worker


def _start_worker(folders: Folders, state: StackState) -> ProcessRecord:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    return spawn(folders, "worker", [*command, "--limit", str(FLOW_RUNS), "--name", state.worker], state)


def _worker_ready(state: StackState) -> bool:
    workers: Any = answers(state.url("prefect") + f"/api/work_pools/{POOL}/workers/filter", body={})
    if not isinstance(workers, list):
        return False
    return any(worker.get("name") == state.worker and worker.get("status") == "ONLINE" for worker in workers)
