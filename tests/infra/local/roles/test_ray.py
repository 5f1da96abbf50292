"""The start of Ray's head: on loopback, with its own ports and the secret."""

import os
from pathlib import Path

import pytest

from infra.local.folders import Folders
from infra.local.roles import ray
from infra.local.roles.table import ROLES
from infra.local.stack_file import StackError, StackState
from tests.infra.local.fixtures_http_server import serving


def test_every_port_of_ray_is_recorded_or_found_by_ray(tmp_path: Path) -> None:
    state = ROLES["ray"].with_ports(StackState(id="x", cpus=4))
    command = ray.ray_command(state, tmp_path)
    ports = {w.split("=")[0]: int(w.split("=")[1]) for w in command if "port=" in w}
    # Ray's own defaults (6379, 8265, 10001, 52365) would collide with a second cluster on the machine.
    assert set(ports.values()) - {0} <= set(state.ports.values())
    assert {"--port", "--dashboard-port", "--ray-client-server-port", "--dashboard-agent-listen-port"} <= set(ports)
    assert "--node-ip-address=127.0.0.1" in command
    assert "--dashboard-host=127.0.0.1" in command
    opened = ray.ray_command(state.model_copy(update={"host": "0.0.0.0"}), tmp_path)
    assert set(opened) - set(command) == {"--dashboard-host=0.0.0.0"}, "everything else stays on loopback"


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
