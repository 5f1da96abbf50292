"""The start of Ray's head: on loopback, with its own ports and the secret."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from infra.local.folders import Folders
from infra.local.roles import ray
from infra.local.roles.table import ROLES
from infra.local.secret import read_secret
from infra.local.stack_file import StackError, StackState
from infra.local.web import basic
from tests.infra.local.fixtures_http_server import serving


def test_every_port_of_ray_is_recorded_or_found_by_ray(tmp_path: Path) -> None:
    state = ROLES["ray"].with_ports(StackState(id="x", cpus=4))
    command = ray.ray_command(state, Folders(tmp_path, tmp_path, str(tmp_path)))
    ports = {w.split("=")[0]: int(w.split("=")[1]) for w in command if "port=" in w}
    # Ray's own defaults (6379, 8265, 10001, 52365) would collide with a second cluster on the machine.
    assert set(ports.values()) - {0} <= set(state.ports.values())
    assert {"--port", "--dashboard-port", "--ray-client-server-port", "--dashboard-agent-listen-port"} <= set(ports)
    assert "--node-ip-address=127.0.0.1" in command
    assert "--dashboard-host=127.0.0.1" in command
    opened = ray.ray_command(state.model_copy(update={"host": "0.0.0.0"}), Folders(tmp_path, tmp_path, str(tmp_path)))
    assert set(opened) - set(command) == {"--dashboard-host=0.0.0.0"}, "everything else stays on loopback"


def test_what_training_shares_between_processes_is_on_loopback_and_in_a_folder_of_the_owner(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}

    def spawn(folders: Folders, role: str, command: list[str], state: StackState, extra: dict[str, str]) -> None:
        given.update(extra)

    monkeypatch.setattr(ray, "spawn", spawn)
    state = ROLES["ray"].with_ports(StackState(id="x", cpus=4))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    ray.start(folders, state)
    assert given["TORCHINDUCTOR_CACHE_DIR"] == str(folders.ray / "torchinductor")
    if sys.platform == "linux":
        assert given["GLOO_SOCKET_IFNAME"] == given["NCCL_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    ray.start(folders, state)
    assert given["TORCHINDUCTOR_CACHE_DIR"] == "/mine"


def test_rays_folder_is_refused_if_it_leads_elsewhere(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(StackError, match="belongs to another user or is a link"):
        ray.make_ray_folder(link)


def test_rays_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remedy = r"file cannot be created .*|is a link.*; set AGEVLM_HOME to a path .* at most 36 bytes"
    with pytest.raises(StackError, match=remedy):
        ray.make_ray_folder(tmp_path / "file" / "ray")


def test_a_ray_whose_secret_is_lost_is_not_ready(folders: Folders) -> None:
    def server(method: str, path: str, body: object, headers: dict[str, str]) -> tuple[int, object]:
        return (200, {}) if "Authorization" in headers else (401, {"detail": "Unauthorized"})

    with serving(server) as port:
        assert not ray.ready(folders, StackState(id="x", ports={"ray_dashboard": port}))


def test_small_machines_get_logical_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    assert ray.logical_cpus() == ray.MINIMUM_CPUS
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert ray.logical_cpus() == 16


def test_the_reason_of_a_dead_ray_is_found_in_its_own_logs(folders: Folders) -> None:
    assert ray.reason(folders) == ""
    logs = folders.ray / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (logs / "dashboard.log").write_text("INFO fine\n  File 'x.py'\nOSError: AF_UNIX path too long\n")
    (logs / "raylet.out").write_text(
        "[2026-11-27 16:07:40,981 I 1 1] (raylet) main.cc:1: started\n"
        "[2026-11-27 16:07:41,981 E 1 1] (raylet) agent_manager.cc:2: The raylet exited because its agent failed.\n"
        "[2026-11-27 16:07:42,981 C 1 1] (raylet) node.cc:3:  Check failed: status\n"
    )
    lines = ray.reason(folders).splitlines()
    assert [line.split("/logs/")[1].split(":")[0] for line in lines] == ["raylet.out", "raylet.out", "dashboard.log"]
    assert "The raylet exited because its agent failed" in lines[0]
    assert lines[2].endswith("dashboard.log: OSError: AF_UNIX path too long")
    shutil.rmtree(folders.ray)


@pytest.mark.parametrize(
    ("running", "broken"),
    [
        ({"gcs_server", "raylet", "dashboard.py", "ray::DashboardAgent", "ray::RuntimeEnvAgent"}, False),
        ({"gcs_server", "raylet", "dashboard.py", "agent.py", "main.py"}, False),  # before they rename themselves
        ({"gcs_server", "raylet", "dashboard.py", "ray::DashboardAgent"}, True),
        ({"gcs_server", "raylet", "dashboard.py", "ray::RuntimeEnvAgent"}, True),
        ({"gcs_server", "dashboard.py", "ray::DashboardAgent", "ray::RuntimeEnvAgent"}, True),
    ],
)
def test_a_ray_without_one_of_its_children_is_broken(
    running: set[str], broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "programs", lambda state, role: running)
    assert ray.broken(StackState(id="x")) == broken


def test_ray_is_told_of_prometheus_and_grafana_only_where_they_run(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}

    def spawn(folders: Folders, role: str, command: list[str], state: StackState, extra: dict[str, str]) -> None:
        given.clear()
        given.update(extra)

    monkeypatch.setattr(ray, "spawn", spawn)
    monkeypatch.setattr(ray, "make_ray_folder", lambda folder: None)
    names = ("ray_gcs", "ray_dashboard", "ray_client", "ray_dashboard_metrics")
    ports = {name: 7000 + number for number, name in enumerate(names)}
    ray.start(folders, StackState(id="x", cpus=2, ports=ports))
    assert not [name for name in given if "PROMETHEUS" in name or "GRAFANA" in name]
    ray.start(folders, StackState(id="x", cpus=2, ports={**ports, "prometheus": 9090, "grafana": 3000}))
    header = {"Authorization": basic(f"agevlm:{read_secret(folders)}")}
    assert json.loads(given["RAY_PROMETHEUS_HEADERS"]) == header
    assert given["RAY_PROMETHEUS_HOST"] == "http://127.0.0.1:9090"
    assert given["RAY_GRAFANA_HOST"] == given["RAY_GRAFANA_IFRAME_HOST"] == "http://127.0.0.1:3000"
    assert given["RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR"].startswith(str(folders.home))
