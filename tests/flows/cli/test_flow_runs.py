"""Flow runs are started, read and cancelled over Prefect's REST API."""

from collections.abc import Iterator
from typing import Any

import pytest

from flows.cli import flow_runs
from infra.local import web
from infra.local.ports import free_ports
from infra.local.stack_file import StackError
from infra.local.web import Server
from model.errors import ConfigError
from tests.infra.local.fixtures_http_server import serving

SCHEMA: dict[str, Any] = {"properties": {"recipe": {}, "limit": {}}}


class FakePrefect:
    """Enough of Prefect's API for one deployment and its runs."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.states: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        parts = path.removeprefix("/api/").strip("/").split("/")
        match parts:
            case ["deployments", "name", "agevlm", "full-recipe"]:
                return 200, {"id": "d1", "parameter_openapi_schema": SCHEMA}
            case ["deployments", "name", *_]:
                return 404, {"detail": "Deployment not found"}
            case ["deployments", "filter"]:
                return 200, [{"flow_id": "f1", "name": "full-recipe"}]
            case ["flows", "filter"]:
                return 200, [{"id": "f1", "name": "agevlm"}]
            case ["deployments", "d1", "create_flow_run"]:
                if body["parameters"].get("limit") == "many":
                    return 409, {"detail": "Validation failed for field 'limit'"}
                run = {"id": "r1", "name": "calm-otter", "deployment_id": "d1", "parameters": body["parameters"]}
                self.runs["r1"] = run
                return 201, run
            case ["flow_runs", run_id]:
                return 200, {**self.runs[run_id], "state": {"type": "RUNNING", "name": "Running", "message": None}}
            case ["flow_runs", run_id, "set_state"]:
                self.states.append((run_id, body))
                return 201, {"status": "ACCEPT"}
        return 404, {"detail": path}


@pytest.fixture
def prefect() -> FakePrefect:
    return FakePrefect()


@pytest.fixture
def api(prefect: FakePrefect) -> Iterator[Server]:
    with serving(prefect) as port:
        yield Server(f"http://127.0.0.1:{port}/api")


def test_a_name_is_never_read_as_a_query(api: Server) -> None:
    with pytest.raises(ConfigError, match="no deployment 'agevlm/full-recipe"):
        flow_runs.start(api, "agevlm/full-recipe?x", {})


def test_a_run_is_started_with_its_parameters(api: Server, prefect: FakePrefect) -> None:
    run = flow_runs.start(api, "agevlm/full-recipe", {"recipe": "miniature"})
    assert (run.id, run.name) == ("r1", "calm-otter")
    assert prefect.runs["r1"]["parameters"] == {"recipe": "miniature"}
    now = flow_runs.flow_state(api, "r1")
    assert (now.name, now.final) == ("Running", False)


@pytest.mark.parametrize("name", ["agevlm/none", "full-recipe", "", "a/b/c"])
def test_an_unknown_deployment_is_refused_with_a_list(api: Server, name: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no deployment .*; there are: agevlm/full-recipe"):
        flow_runs.start(api, name, {})


def test_an_unknown_parameter_is_refused_with_a_list(api: Server, prefect: FakePrefect) -> None:
    with pytest.raises(ConfigError, match="no parameter 'recpie'; it has: recipe, limit"):
        flow_runs.start(api, "agevlm/full-recipe", {"recpie": "miniature"})
    assert prefect.runs == {}


def test_a_wrong_value_is_refused_in_prefects_words(api: Server) -> None:
    with pytest.raises(ConfigError, match="Validation failed for field 'limit'"):
        flow_runs.start(api, "agevlm/full-recipe", {"limit": "many"})


def test_a_busy_server_is_asked_again_for_the_same_run(prefect: FakePrefect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PAUSE", 0.01)
    keys: list[str] = []

    def busy(method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        if path.endswith("create_flow_run"):
            keys.append(body["idempotency_key"])
            if len(keys) < 3:
                return 503, {"exception_message": "Service Unavailable"}
        return prefect(method, path, body, headers)

    with serving(busy) as port:
        flow_runs.start(Server(f"http://127.0.0.1:{port}/api"), "agevlm/full-recipe", {})
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_no_server_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_runs, "PATIENCE", 0.1)
    monkeypatch.setattr(web, "PAUSE", 0.01)
    with pytest.raises(StackError, match="agevlm status"):
        flow_runs.start(Server(f"http://127.0.0.1:{free_ports(1)[0]}/api"), "agevlm/full-recipe", {})


def test_cancelling_asks_for_the_state_cancelling(api: Server, prefect: FakePrefect) -> None:
    flow_runs.cancel(api, "r1")
    assert [(run, body["state"]["type"]) for run, body in prefect.states] == [("r1", "CANCELLING")]
