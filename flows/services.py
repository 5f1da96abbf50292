"""The three processes of the local stack: how each is started, and how one knows that it is ready."""

import os
import secrets
import shlex
import sys
from pathlib import Path
from typing import Any

import psutil

from flows.home import SOCKET_FOLDER_LENGTH, prefect_home, ray_folder, ray_token_file
from flows.ports import free_ports, is_free
from flows.processes import spawn, usable_cpus
from flows.state import ProcessRecord, StackError, StackState
from flows.web import Refused, answers, insist, ray_token

POOL = "local"
FLOW_RUNS = 4
"""Flow runs at once. A flow run only waits for its Ray jobs, so this is no matter of cores."""

MINIMUM_CPUS = FLOW_RUNS + 1
"""Ray's CPUs are logical: it counts them and binds nobody to them. A training worker holds one (Ray Train's controller
none), and so does the model of `segment`, which waits for half a one more to decode with. Each flow run reckons with
the whole machine, so as many runs at once as there may be could take a CPU each and wait for that half for ever."""

PORTS = {
    "prefect": ("prefect",),
    "ray": ("ray_gcs", "ray_dashboard", "ray_client", "ray_dashboard_metrics"),
    "worker": (),
}
"""Ports that are chosen and recorded for each role. Ray finds the rest itself, with no gap between look and use."""

MEBIBYTE = 1 << 20


def with_ports(state: StackState, role: str) -> StackState:
    """The state with ports for a role. Recorded ports are kept while they are free, so that addresses stay."""
    names = PORTS[role]
    if all(name in state.ports and is_free(state.ports[name]) for name in names):
        return state
    return state.model_copy(update={"ports": {**state.ports, **dict(zip(names, free_ports(len(names)), strict=True))}})


def start(role: str, state: StackState) -> ProcessRecord:
    """Start the process of a role; its ports must be chosen already."""
    return {"prefect": _start_prefect, "ray": _start_ray, "worker": _start_worker}[role](state)


def ready(role: str, state: StackState) -> bool:
    """Whether a role does its work."""
    return {"prefect": _prefect_ready, "ray": _ray_ready, "worker": _worker_ready}[role](state)


def url(role: str, state: StackState) -> str:
    """The page of a role for people, or ''."""
    ports = {"prefect": "prefect", "ray": "ray_dashboard"}
    return state.url(ports[role]) if role in ports else ""


# -- Prefect's server


def _start_prefect(state: StackState) -> ProcessRecord:
    prefect_home().mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start"]
    port = state.ports["prefect"]
    # By default any page in the user's browser may ask this server for anything, for example to start a run.
    origins = ",".join(f"http://{host}:{port}" for host in ("127.0.0.1", "localhost"))
    extra = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins}
    return spawn("prefect", [*command, "--host", "127.0.0.1", "--port", str(port)], state, extra)


def _prefect_ready(state: StackState) -> bool:
    return answers(state.url("prefect") + "/api/health", timeout=5) is not None


def make_pool(state: StackState) -> None:
    """Make the work pool of process type, unless it is there. Raises StackError if Prefect refuses."""
    pools = state.url("prefect") + "/api/work_pools/"
    pool = {"name": POOL, "type": "process", "description": "flows of agevlm on this machine"}
    try:
        insist(pools, pool, timeout=30)
    except OSError as error:
        if not (isinstance(error, Refused) and error.status == 409):  # 409: it is there
            raise StackError(f"Prefect did not make the work pool '{POOL}': {error}") from error


# -- Ray's head node


def make_token() -> None:
    """Write the token that Ray's servers will ask for, unless there is one; only its owner can read it."""
    path = ray_token_file()
    if path.exists():
        path.chmod(0o600)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))


def make_ray_folder() -> Path:
    """Ray's temporary folder, made for its owner only. Raises StackError if it belongs to somebody else."""
    folder = ray_folder()
    remedy = f"set AGEVLM_HOME to a path of your own of at most {SOCKET_FOLDER_LENGTH - 4} bytes"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        foreign = folder.is_symlink() or folder.stat().st_uid != os.getuid()
    except OSError as error:
        raise StackError(f"Ray's temporary folder {folder} cannot be made ({error}); {remedy}") from error
    if foreign:
        raise StackError(f"{folder} belongs to somebody else; {remedy}")
    return folder


def token_words() -> str:
    """What to say of Ray's page, which asks for a token: never the token itself, only how it is read."""
    path = shlex.quote(str(ray_token_file()))
    if not ray_token_file().exists():
        return f"asks for a token, but {path} is gone: end the stack with 'agevlm down' and start it again"
    return f"asks once for a token: cat {path}"


def logical_cpus() -> int:
    """CPUs that Ray is told of."""
    return max(MINIMUM_CPUS, usable_cpus())


def object_store_bytes() -> int:
    """Size of Ray's shared memory: small beside the models, more on a larger machine."""
    return (1024 if psutil.virtual_memory().total >= 24 << 30 else 512) * MEBIBYTE


def ray_command(state: StackState, folder: Path) -> list[str]:
    """How Ray's head node is started: on the loopback interface, its ports our own or of its own finding."""
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
        "--dashboard-agent-listen-port=0",  # 0: found by the process itself
        f"--ray-client-server-port={ports['ray_client']}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--num-cpus={state.cpus}",
        f"--object-store-memory={object_store_bytes()}",
        f"--temp-dir={folder}",
        "--disable-usage-stats",
        "--no-monitor",  # the autoscaler's; this cluster never grows
    ]


def _start_ray(state: StackState) -> ProcessRecord:
    make_token()
    extra = {
        # Without this Ray replaces 127.0.0.1 by an outside address. The switch says "no cluster of several hosts".
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "DASHBOARD_METRIC_PORT": str(state.ports["ray_dashboard_metrics"]),
        "SPT_NOENV": "1",  # Ray renames its processes: keep their environments readable, they carry the mark
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # the default of 60 is too short for a busy laptop
        "RAY_COLOR_PREFIX": "0",
    }
    return spawn("ray", ray_command(state, make_ray_folder()), state, extra)


def _ray_ready(state: StackState) -> bool:
    nodes: Any = answers(state.url("ray_dashboard") + "/nodes?view=summary", token=ray_token(), timeout=10)
    if not isinstance(nodes, dict):
        return False
    summary = (nodes.get("data") or {}).get("summary") or []
    alive = [node for node in summary if (node.get("raylet") or {}).get("state") == "ALIVE"]
    return bool(alive) and answers(state.url("ray_dashboard") + "/api/jobs/", token=ray_token()) is not None


# -- Prefect's worker


def _start_worker(state: StackState) -> ProcessRecord:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    return spawn("worker", [*command, "--limit", str(FLOW_RUNS), "--name", state.worker], state)


def _worker_ready(state: StackState) -> bool:
    workers: Any = answers(state.url("prefect") + f"/api/work_pools/{POOL}/workers/filter", body={})
    if not isinstance(workers, list):
        return False
    return any(worker.get("name") == state.worker and worker.get("status") == "ONLINE" for worker in workers)
