"""Ray's head node with its dashboard."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from infra.local.folders import SOCKET_FOLDER_LENGTH, Folders
from infra.local.machine import object_store, shm_usable, usable_cpus
from infra.local.private import own_folder
from infra.local.processes import programs, spawn
from infra.local.roles import grafana, prometheus
from infra.local.roles.worker import FLOW_RUNS
from infra.local.secret import make_secret, read_secret
from infra.local.stack_file import ProcessRecord, StackState
from infra.local.web import Server, bearer

MINIMUM_CPUS = FLOW_RUNS + 1
"""Ray's CPUs are logical: it counts them and pins no process to a core. A training worker holds one CPU (Ray Train's
controller none). So does the model actor of `segment`, which then waits for another half CPU for decoding. Each flow
run plans with the whole machine. So FLOW_RUNS runs could hold one CPU each and all wait for that half: one CPU more
than FLOW_RUNS prevents this deadlock."""

PORTS = ("ray_gcs", "ray_dashboard", "ray_client", "ray_dashboard_metrics")
"""Ports that are chosen and recorded. Ray itself binds the others to port 0, so they are always free."""

CHILDREN = (
    {"gcs_server"},
    {"raylet"},
    {"dashboard.py"},
    {"ray::DashboardAgent", "agent.py"},
    {"ray::RuntimeEnvAgent", "main.py"},
)
"""Programs without which Ray's head does no work: the names of each. The last two are the raylet's agents, which rename
themselves; seconds after one of them ended, the raylet ends too."""

LOGS = (
    *("raylet.err", "raylet.out", "dashboard.err", "dashboard.log", "gcs_server.err", "gcs_server.out"),
    *("dashboard_agent.log", "agent.err", "runtime_env_agent.log", "runtime_env_agent.err"),
)
"""Logs of Ray's processes that say why one ended."""
REASON = re.compile(r"(^|[\s|\[])(\w*Error\b|E |F |FATAL|CRITICAL|ERROR)|Check failed|Exception:")
REASON_LINES, LINE_LENGTH = 3, 300

LOOPBACK_ONLY = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
"""Training workers of this one machine talk to each other on loopback. By default these libraries listen on an address
of the network, and a shell may still have the name of another cluster's interface."""

REPORT_MILLISECONDS = 5000
"""Time between two reports of metrics by each process of Ray: as often as Prometheus reads them. A gauge is gone two
reports after its process ended."""


def ray_api(folders: Folders, state: StackState) -> Server:
    """Ray's dashboard, which serves its REST API."""
    return Server(state.url("ray_dashboard"), bearer(read_secret(folders)))


def broken(state: StackState) -> bool:
    """True if Ray's head lives but cannot work again: `ray start --block` ignores children that end in order.

    A raylet ends in order some seconds after one of its agents was killed, and every child does after SIGTERM.
    """
    running = programs(state, "ray")
    return any(names.isdisjoint(running) for names in CHILDREN)


def reason(folders: Folders) -> str:
    """The last errors in the logs of Ray's own processes, a line each with its file; '' if there are none."""
    found = []
    for name in LOGS:
        path = folders.ray / "session_latest" / "logs" / name
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue  # this process did not get as far as its log
        errors = dict.fromkeys(line.strip()[:LINE_LENGTH] for line in lines if REASON.search(line))
        found += [f"  {path}: {line}" for line in list(errors)[-REASON_LINES:]]
    return "\n".join(found)


def make_ray_folder(folder: Path) -> None:
    """Create Ray's temporary folder in a folder that only its owner can enter.

    Ray gives its folder and the folders in it the mode 0777 whenever it starts. Raises StackError if one of the two
    belongs to another user or is a link.
    """
    remedy = f"set AGEVLM_HOME to a path of at most {SOCKET_FOLDER_LENGTH - 4} bytes that you own"
    own_folder(folder.parent, remedy)
    own_folder(folder, remedy)


def logical_cpus() -> int:
    """Number of CPUs that Ray is started with."""
    return max(MINIMUM_CPUS, usable_cpus())


def ray_command(state: StackState, folders: Folders) -> list[str]:
    """The command of Ray's head node, with recorded ports or with ports that Ray finds.

    Only the dashboard listens on the stack's host. All other servers listen on the loopback interface.
    """
    ports = state.ports
    return [
        folders.python,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--port={ports['ray_gcs']}",
        "--include-dashboard=true",
        f"--dashboard-host={state.host}",
        f"--dashboard-port={ports['ray_dashboard']}",
        "--dashboard-agent-listen-port=0",  # 0: the process finds a free port itself
        f"--ray-client-server-port={ports['ray_client']}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--num-cpus={state.cpus}",
        f"--object-store-memory={object_store().bytes}",
        f"--temp-dir={folders.ray}",
        "--disable-usage-stats",
        "--no-monitor",  # no autoscaler: this cluster never grows
        *([] if shm_usable() else [f"--plasma-directory={folders.ray}"]),
    ]


def start(folders: Folders, state: StackState) -> ProcessRecord:
    """Start the head node. All its servers ask for the secret."""
    make_secret(folders.secret)
    make_ray_folder(folders.ray)
    extra = {
        # Without this Ray replaces 127.0.0.1 by an address of the network. "0": no cluster of several hosts.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "DASHBOARD_METRIC_PORT": str(state.ports["ray_dashboard_metrics"]),
        "SPT_NOENV": "1",  # Ray renames its processes: keeps their environments readable, which carry the stack's id
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # the default of 60 is too short for a busy laptop
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR") or str(folders.compiled),
        **LOOPBACK_ONLY,
        "RAY_COLOR_PREFIX": "0",
        "RAY_ROTATION_MAX_BYTES": str(64 << 20),  # of each log of Ray's own processes; 512 MB by default
        "RAY_ROTATION_BACKUP_COUNT": "3",
        # By default Ray writes no object to a disk that is 95 % full: of a large disk that leaves much unused.
        "RAY_local_fs_capacity_threshold": "0.99",
        "RAY_metrics_report_interval_ms": str(REPORT_MILLISECONDS),
        **prometheus.told_to_ray(folders, state),
        **grafana.told_to_ray(folders, state),
    }
    return spawn(folders, "ray", ray_command(state, folders), state, extra)


def ready(folders: Folders, state: StackState) -> bool:
    """True if the node is alive and the Jobs API answers."""
    api = ray_api(folders, state)
    nodes: Any = api.answers("/nodes?view=summary")
    if not isinstance(nodes, dict):
        return False
    summary = (nodes.get("data") or {}).get("summary") or []
    alive = [node for node in summary if (node.get("raylet") or {}).get("state") == "ALIVE"]
    return bool(alive) and api.answers("/api/jobs/") is not None
