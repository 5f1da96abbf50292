"""Prometheus: it keeps Ray's metrics and ours. The stack works without it."""

import json
import os
import shutil
from pathlib import Path

from infra.local.folders import Folders
from infra.local.processes import spawn
from infra.local.secret import make_secret, read_secret
from infra.local.stack_file import ProcessRecord, StackState
from infra.local.web import Server, basic
from infra.prometheus.configuration import GO, USER, command, configuration, web_configuration

PROGRAM, PORT = "prometheus", "prometheus"
"""Name of the program on the PATH; name of its port in the record of the stack."""
SOURCE = "Prometheus"
"""Name of the data source in Grafana, by which Ray's dashboards find it."""
DISCOVERY = "prom_metrics_service_discovery.json"
"""File in Ray's temporary folder with the addresses of all metrics."""


def wanted() -> bool:
    """True if Prometheus is installed."""
    return shutil.which(PROGRAM) is not None


def authorization(folders: Folders) -> str:
    """The header 'Authorization' that Prometheus asks for."""
    return basic(f"{USER}:{read_secret(folders)}")


def prometheus_api(folders: Folders, state: StackState) -> Server:
    """The stack's Prometheus: its HTTP API is below /api/v1."""
    return Server(state.url(PORT), authorization(folders))


def start(folders: Folders, state: StackState) -> ProcessRecord:
    """Write its configuration and start it on the loopback interface. It asks for the secret."""
    make_secret(folders.secret)
    folder = folders.home / "prometheus"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = folder / "prometheus.yml", folder / "web.yml"
    write_private(files[0], configuration(folders.ray / DISCOVERY))
    write_private(files[1], web_configuration(read_secret(folders)))
    words = command(shutil.which(PROGRAM) or PROGRAM, state.ports[PORT], *files, folder / "data")
    return spawn(folders, "prometheus", words, state, GO)


def ready(folders: Folders, state: StackState) -> bool:
    """True if it answers queries, and takes the secret."""
    return prometheus_api(folders, state).answers("/api/v1/query?query=vector(1)", timeout=5) is not None


def told_to_ray(folders: Folders, state: StackState) -> dict[str, str]:
    """Variables with which Ray's dashboard finds Prometheus; {} if the stack has none."""
    if PORT not in state.ports:
        return {}
    return {
        "RAY_PROMETHEUS_HOST": state.url(PORT),
        "RAY_PROMETHEUS_NAME": SOURCE,
        "RAY_PROMETHEUS_HEADERS": json.dumps({"Authorization": authorization(folders)}),
    }


def write_private(path: Path, text: str) -> None:
    """Write a text file that only its owner can read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
