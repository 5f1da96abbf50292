"""How the stack's processes are started: on loopback, with ports and a token of their own."""

import os
import socket
import stat
from pathlib import Path

import pytest

from flows import services
from flows.home import ray_token_file
from flows.services import PORTS, make_pool, make_token, ray_command, with_ports
from flows.state import StackError, StackState
from tests.flows.servers import serving


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))


def test_recorded_ports_are_kept_while_they_are_free() -> None:
    state = with_ports(StackState(id="x"), "ray")
    assert set(state.ports) == set(PORTS["ray"])
    assert with_ports(state, "ray") is state
    with socket.create_server(("127.0.0.1", state.ports["ray_gcs"])):
        other = with_ports(state, "ray")
    assert other.ports["ray_gcs"] != state.ports["ray_gcs"]
    assert set(with_ports(other, "prefect").ports) == {*PORTS["ray"], "prefect"}


def test_rays_every_port_is_chosen_or_found_by_itself(tmp_path: Path) -> None:
    state = with_ports(StackState(id="x", cpus=4), "ray")
    command = ray_command(state, tmp_path)
    ports = {w.split("=")[0]: int(w.split("=")[1]) for w in command if "port=" in w}
    # Ray's own defaults (6379, 8265, 10001, 52365) would collide with a second cluster on the machine.
    assert set(ports.values()) - {0} <= set(state.ports.values())
    assert {"--port", "--dashboard-port", "--ray-client-server-port", "--dashboard-agent-listen-port"} <= set(ports)
    assert "--node-ip-address=127.0.0.1" in command
    assert "--dashboard-host=127.0.0.1" in command


def test_the_token_is_secret_and_stays() -> None:
    make_token()
    path = ray_token_file()
    token = path.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    make_token()
    assert path.read_text() == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rays_folder_is_refused_if_it_leads_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    monkeypatch.setattr(services, "ray_folder", lambda: link)
    with pytest.raises(StackError, match="belongs to somebody else"):
        services.make_ray_folder()


def test_small_machines_get_logical_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    assert services.logical_cpus() == services.MINIMUM_CPUS
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert services.logical_cpus() == 16


def test_the_pool_is_made_once() -> None:
    made: list[str] = []

    def prefect(method: str, path: str, body: object, headers: dict[str, str]) -> tuple[int, object]:
        if method == "GET":
            return (200, {"name": "local"}) if made else (404, {"detail": "not found"})
        assert isinstance(body, dict)
        made.append(body["name"])
        return 201, body

    with serving(prefect) as port:
        state = StackState(id="x", ports={"prefect": port})
        make_pool(state)
        make_pool(state)
    assert made == ["local"]


def test_a_pool_that_prefect_refuses_is_an_error() -> None:
    with serving(lambda *_: (500, {"detail": "database is locked"})) as port, pytest.raises(StackError, match="locked"):
        make_pool(StackState(id="x", ports={"prefect": port}))
