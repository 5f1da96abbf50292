"""The start of the stack's processes: on loopback, with their own ports and token."""

import os
import socket
import stat
from pathlib import Path

import pytest

from infra.local import services, web
from infra.local.deployments import deployed
from infra.local.folders import Folders
from infra.local.services import PORTS, make_pool, make_token, ray_command, read_token, with_ports
from infra.local.stack_file import StackError, StackState
from tests.infra.local.fixtures_http_server import serving


def test_recorded_ports_are_kept_while_they_are_free() -> None:
    state = with_ports(StackState(id="x"), "ray")
    assert set(state.ports) == set(PORTS["ray"])
    assert with_ports(state, "ray") is state
    with socket.create_server(("127.0.0.1", state.ports["ray_gcs"])):
        other = with_ports(state, "ray")
    assert other.ports["ray_gcs"] != state.ports["ray_gcs"]
    assert set(with_ports(other, "prefect").ports) == {*PORTS["ray"], "prefect"}


def test_every_port_of_ray_is_recorded_or_found_by_ray(tmp_path: Path) -> None:
    state = with_ports(StackState(id="x", cpus=4), "ray")
    command = ray_command(state, tmp_path)
    ports = {w.split("=")[0]: int(w.split("=")[1]) for w in command if "port=" in w}
    # Ray's own defaults (6379, 8265, 10001, 52365) would collide with a second cluster on the machine.
    assert set(ports.values()) - {0} <= set(state.ports.values())
    assert {"--port", "--dashboard-port", "--ray-client-server-port", "--dashboard-agent-listen-port"} <= set(ports)
    assert "--node-ip-address=127.0.0.1" in command
    assert "--dashboard-host=127.0.0.1" in command


def test_the_token_is_secret_and_stays(folders: Folders) -> None:
    path = folders.ray_token
    make_token(path)
    token = path.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    make_token(path)
    assert path.read_text() == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rays_folder_is_refused_if_it_leads_elsewhere(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(StackError, match="belongs to another user or is a link"):
        services.make_ray_folder(link)


def test_rays_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remedy = r"file/ray cannot be created .*; set AGEVLM_HOME to a path .* at most 36 bytes"
    with pytest.raises(StackError, match=remedy):
        services.make_ray_folder(tmp_path / "file" / "ray")


def test_the_hint_names_the_file_of_the_token_and_never_the_token(folders: Folders) -> None:
    path = folders.ray_token
    make_token(path)
    assert services.token_hint(folders) == f"asks once for a token: cat {path}"
    path.unlink()
    assert services.token_hint(folders) == (
        f"asks for a token, but {path} is gone: end the stack with 'agevlm down' and start it again"
    )


def test_a_damaged_token_is_read_and_then_refused(folders: Folders) -> None:
    assert read_token(folders) == ""
    folders.ray_token.parent.mkdir()
    folders.ray_token.write_bytes(b"caf\xe9\n")
    token = read_token(folders)
    with serving(lambda *_: (200, {})) as port:
        assert web.answers(f"http://127.0.0.1:{port}/", token=token) is None  # and no traceback


def test_a_ray_whose_token_is_lost_is_not_ready(folders: Folders) -> None:
    def ray(method: str, path: str, body: object, headers: dict[str, str]) -> tuple[int, object]:
        return (200, {}) if "Authorization" in headers else (401, {"detail": "Unauthorized"})

    with serving(ray) as port:
        assert not services.ready(folders, "ray", StackState(id="x", ports={"ray_dashboard": port}))


def test_only_prefects_own_pages_may_send_requests_from_a_browser(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}

    def spawn(folders: Folders, role: str, command: list[str], state: StackState, extra: dict[str, str]) -> None:
        given.update(extra)

    monkeypatch.setattr(services, "spawn", spawn)
    services.start(folders, "prefect", StackState(id="x", ports={"prefect": 4200}))
    assert given == {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1:4200,http://localhost:4200"}


def test_small_machines_get_logical_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    assert services.logical_cpus() == services.MINIMUM_CPUS
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert services.logical_cpus() == 16


def test_the_pool_is_made_once() -> None:
    made: list[str] = []

    def prefect(method: str, path: str, body: object, headers: dict[str, str]) -> tuple[int, object]:
        assert method == "POST"
        assert isinstance(body, dict)
        if made:
            return 409, {"detail": "Work pool already exists"}
        made.append(body["name"])
        return 201, body

    with serving(prefect) as port:
        state = StackState(id="x", ports={"prefect": port})
        make_pool(state)
        make_pool(state)
    assert made == ["local"]


def test_a_busy_prefect_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PAUSE", 0.01)
    asked: list[str] = []

    def prefect(method: str, path: str, body: object, headers: dict[str, str]) -> tuple[int, object]:
        asked.append(path)
        if len(asked) % 2:
            return 503, {"exception_message": "Service Unavailable"}
        match path.split("/")[2]:
            case "flows":
                return 200, [{"id": "f", "name": "agevlm"}]
            case "deployments":
                return 200, [{"flow_id": "f", "name": "full-recipe"}]
        return 201, {}

    with serving(prefect) as port:
        state = StackState(id="x", ports={"prefect": port})
        make_pool(state)
        assert deployed(state) == ["agevlm/full-recipe"]
    assert len(asked) == 6


def test_what_prefect_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PAUSE", 0.01)
    monkeypatch.setattr(web, "PATIENCE", 0.05)
    with serving(lambda *_: (500, {"detail": "database is locked"})) as port:
        state = StackState(id="x", ports={"prefect": port})
        for ask in (make_pool, deployed):
            with pytest.raises(StackError, match="locked"):
                ask(state)
