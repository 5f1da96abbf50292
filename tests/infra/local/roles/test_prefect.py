"""Prefect's server: what its start is given, its work pool and its deployments."""

import pytest

from infra.local import web
from infra.local.deployments import deployed
from infra.local.folders import Folders
from infra.local.roles import prefect as role
from infra.local.roles.prefect import make_pool
from infra.local.secret import read_secret
from infra.local.stack_file import StackError, StackState
from infra.local.web import Server
from tests.infra.local.fixtures_http_server import serving


def test_only_prefects_own_pages_may_send_requests_from_a_browser(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}

    def spawn(folders: Folders, role: str, command: list[str], state: StackState, extra: dict[str, str]) -> None:
        given.update(extra)

    monkeypatch.setattr(role, "spawn", spawn)
    role.start(folders, StackState(id="x", ports={"prefect": 4200}))
    assert given == {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1:4200,http://localhost:4200",
        "PREFECT_SERVER_API_AUTH_STRING": read_secret(folders),
        "PREFECT_SERVER_UI_API_URL": "/api",
    }
    for host, origins in (("10.0.0.5", ",http://10.0.0.5:4200"), ("0.0.0.0", "")):
        role.start(folders, StackState(id="x", ports={"prefect": 4200}, host=host))
        known = "http://127.0.0.1:4200,http://localhost:4200"
        assert given["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == known + origins


def test_the_pool_is_made_once() -> None:
    made: list[str] = []

    def prefect(method: str, path: str, body: object, headers: dict[str, str]) -> tuple[int, object]:
        assert method == "POST"
        assert isinstance(body, dict)
        if body["name"] in made:
            return 409, {"detail": "it already exists"}
        made.append(body["name"])
        return 201, body

    with serving(prefect) as port:
        api = Server(f"http://127.0.0.1:{port}/api")
        make_pool(api)
        make_pool(api)
    assert made == ["local", "masks-pretrain", "masks-instruct"]


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
        api = Server(f"http://127.0.0.1:{port}/api")
        make_pool(api)
        assert deployed(api) == ["agevlm/full-recipe"]
    assert len(asked) == 10


def test_what_prefect_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PAUSE", 0.01)
    monkeypatch.setattr(web, "PATIENCE", 0.05)
    with serving(lambda *_: (500, {"detail": "database is locked"})) as port:
        api = Server(f"http://127.0.0.1:{port}/api")
        for ask in (make_pool, deployed):
            with pytest.raises(StackError, match="locked"):
                ask(api)


def test_the_database_is_kept_for_later_starts_and_for_the_server_only(folders: Folders) -> None:
    folders.home.mkdir(parents=True)
    assert role.database(folders, "") == {}
    url = "postgresql+asyncpg://me:word@localhost/prefect"
    wanted = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}
    assert role.database(folders, url) == wanted
    assert role.database(folders, "") == wanted, "a later start from another shell uses the same database"
    assert (folders.home / "database").stat().st_mode & 0o777 == 0o600
    with pytest.raises(StackError, match="must begin with") as caught:
        role.database(folders, "postgres://me:word@localhost/prefect")
    assert "word" not in str(caught.value)
    assert role.database(folders, "sqlite") == {}
    assert role.database(folders, "") == {}
