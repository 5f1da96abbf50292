"""Grafana: it draws what Prometheus keeps, and Ray's dashboard shows its charts. The stack works without it."""

import shutil
from pathlib import Path
from typing import Any

from infra.grafana.provisioning import DASHBOARDS, dashboard_providers, data_sources, home_path, settings
from infra.local.folders import Folders
from infra.local.processes import spawn
from infra.local.roles import prometheus
from infra.local.secret import make_secret, read_secret
from infra.local.stack_file import ProcessRecord, StackState
from infra.local.web import answers
from infra.prometheus.configuration import USER

PROGRAM, PORT = "grafana", "grafana"
"""Name of the program on the PATH; name of its port in the record of the stack."""


def wanted() -> bool:
    """True if Grafana is installed, and Prometheus, without which it has nothing to show."""
    return shutil.which(PROGRAM) is not None and prometheus.wanted()


def ray_dashboards(folders: Folders) -> Path:
    """Folder into which Ray writes its dashboards."""
    return folders.home / "grafana" / "ray-dashboards"


def start(folders: Folders, state: StackState) -> ProcessRecord:
    """Write its settings and provisioning, and start it on the loopback interface. It asks for the secret."""
    make_secret(folders.secret)
    folder = folders.home / "grafana"
    for name in ("data", "logs", "plugins", "provisioning/datasources", "provisioning/dashboards"):
        (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    ray_dashboards(folders).mkdir(exist_ok=True, mode=0o700)  # Grafana looks for it at its start, Ray fills it later
    sources = data_sources(prometheus.SOURCE, state.url(prometheus.PORT), USER, read_secret(folders))
    providers = dashboard_providers({"agevlm": DASHBOARDS, "Ray": ray_dashboards(folders)})
    config = folder / "grafana.ini"
    prometheus.write_private(config, settings(state.ports[PORT], folder, folders.secret))
    prometheus.write_private(folder / "provisioning/datasources/prometheus.yml", sources)
    prometheus.write_private(folder / "provisioning/dashboards/agevlm.yml", providers)
    program = Path(shutil.which(PROGRAM) or PROGRAM)
    home = home_path(program)
    own = [] if home is None else ["--homepath", str(home)]
    return spawn(folders, "grafana", [str(program), "server", "--config", str(config), *own], state)


def ready(folders: Folders, state: StackState) -> bool:
    """True if it and its database work; Ray asks the same."""
    health: Any = answers(state.url(PORT) + "/api/health", timeout=5)
    return isinstance(health, dict) and health.get("database") == "ok"


def told_to_ray(folders: Folders, state: StackState) -> dict[str, str]:
    """Variables with which Ray's dashboard finds Grafana and hands its dashboards over; {} if the stack has none."""
    if PORT not in state.ports:
        return {}
    return {
        "RAY_GRAFANA_HOST": state.url(PORT),
        "RAY_GRAFANA_IFRAME_HOST": state.url(PORT),
        "RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR": str(ray_dashboards(folders)),
    }
