"""Runs whose process is gone are marked as crashed: their tasks, their run file, and the run in Prefect."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from infra.local import web
from infra.local.lost_runs import MESSAGE, RUN_ID, cancel_lost_runs, crash_lost_runs, flow_run_of
from infra.local.ports import free_ports
from infra.local.stack_file import StackError
from infra.local.web import Server
from tests.infra.local.fixtures_http_server import serving

STORE = "/store"


class FakePrefect:
    """Stands for Prefect's API: lists unfinished flow runs and task runs, and records the states that are set."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.tasks: dict[str, list[str]] = {}
        self.states: list[tuple[str, str, dict[str, Any]]] = []
        self.deleted: set[str] = set()

    def __call__(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        match path.removeprefix("/api/").split("/"):
            case ["flow_runs", "filter"]:
                states = set(body["flow_runs"]["state"]["type"]["any_"])
                assert states <= {"RUNNING", "CANCELLING", "PENDING"}
                return 200, [run for run in self.runs if run.get("state_type", "RUNNING") in states]
            case ["task_runs", "filter"]:
                assert set(body["task_runs"]["state"]["type"]["any_"]) == {"RUNNING", "PENDING"}
                (run,) = body["flow_runs"]["id"]["any_"]
                return 200, [{"id": task} for task in self.tasks.get(run, [])]
            case [kind, id, "set_state"] if id not in self.deleted:
                self.states.append((kind, id, body))
                return 201, {"status": "ACCEPT"}
        return 404, {"detail": path}


@pytest.fixture
def prefect() -> FakePrefect:
    return FakePrefect()


@pytest.fixture
def api(prefect: FakePrefect) -> Iterator[Server]:
    with serving(prefect) as port:
        yield Server(f"http://127.0.0.1:{port}/api")


def run(id: str, deployment: str | None = "d1") -> dict[str, Any]:
    return {"id": id, "name": f"{id}-otter", "deployment_id": deployment}


class ClosedRuns:
    """Records the run files that were closed; each of them with this problem."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.problem = ""

    def __call__(self, store: str, flow_run_id: str, message: str) -> str:
        self.calls.append((store, flow_run_id, message))
        return self.problem


@pytest.fixture
def closed() -> ClosedRuns:
    return ClosedRuns()


def test_a_lost_run_is_closed_everywhere(api: Server, prefect: FakePrefect, closed: ClosedRuns) -> None:
    prefect.runs = [run("lost"), run("by-hand", deployment=None)]  # by hand: it may run on another machine
    prefect.tasks = {"lost": ["t1", "t2"], "by-hand": ["t3"]}
    assert crash_lost_runs(api, STORE, closed) == ["lost-otter"]
    # The run comes last: after an interruption it is found again.
    assert [(kind, id) for kind, id, _ in prefect.states] == [
        ("task_runs", "t1"),
        ("task_runs", "t2"),
        ("flow_runs", "lost"),
    ]
    assert {(body["state"]["type"], body["force"]) for _, _, body in prefect.states} == {("CRASHED", True)}
    assert closed.calls == [(STORE, "lost", MESSAGE)]


def test_a_cancel_whose_run_was_lost_is_ended_with_its_jobs(api: Server, prefect: FakePrefect) -> None:
    prefect.runs = [run("lost"), run("stopped") | {"state_type": "CANCELLING"}]
    prefect.tasks = {"stopped": ["t1"]}
    asked: list[tuple[str, str, int]] = []

    def end_cancel(store: str, flow_run_id: str) -> str:
        asked.append((store, flow_run_id, len(prefect.states)))
        return ""

    assert cancel_lost_runs(api, STORE, end_cancel) == ["stopped-otter"]
    assert asked == [(STORE, "stopped", 0)], "its jobs end first: after an interruption the run is found again"
    assert [(id, body["state"]["type"]) for _, id, body in prefect.states] == [
        ("t1", "CANCELLED"),
        ("stopped", "CANCELLED"),
    ]
    # A run whose jobs go on is not called cancelled.
    prefect.states.clear()
    assert cancel_lost_runs(api, STORE, lambda store, run: "Ray is away") == ["stopped-otter (Ray is away)"]
    assert prefect.states == []


def test_the_run_file_is_closed_before_the_run(api: Server, prefect: FakePrefect) -> None:
    prefect.runs = [run("lost")]

    def close(store: str, flow_run_id: str, message: str) -> str:
        assert prefect.states == []
        return ""

    assert crash_lost_runs(api, STORE, close) == ["lost-otter"]


def test_a_run_that_was_deleted_meanwhile_is_not_named(api: Server, prefect: FakePrefect, closed: ClosedRuns) -> None:
    prefect.runs, prefect.deleted = [run("gone"), run("lost")], {"gone"}
    assert crash_lost_runs(api, STORE, closed) == ["lost-otter"]


def test_a_run_file_that_cannot_be_closed_does_not_keep_the_stack_from_starting(
    api: Server, prefect: FakePrefect, closed: ClosedRuns
) -> None:
    prefect.runs = [run("lost")]
    closed.problem = "its run file stays open: it is damaged"
    assert crash_lost_runs(api, STORE, closed) == ["lost-otter (its run file stays open: it is damaged)"]
    assert [id for _, id, _ in prefect.states] == ["lost"]


def test_a_run_whose_process_lives_is_left_alone(api: Server, prefect: FakePrefect, closed: ClosedRuns) -> None:
    prefect.runs = [run("alive")]
    environment = {**os.environ, RUN_ID: "alive"}
    with subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE) as process:
        while not flow_run_of(psutil.Process(process.pid)):
            pass  # for a moment its environment reads as empty
        assert crash_lost_runs(api, STORE, closed) == []
        assert prefect.states == []
        process.communicate(b"\n", timeout=60)
    assert crash_lost_runs(api, STORE, closed) == ["alive-otter"]


def test_a_server_that_does_not_list_its_runs_is_an_error(monkeypatch: pytest.MonkeyPatch, closed: ClosedRuns) -> None:
    monkeypatch.setattr(web, "PAUSE", 0.01)
    monkeypatch.setattr(web, "PATIENCE", 0.05)
    with pytest.raises(StackError, match="does not list its flow runs"):
        crash_lost_runs(Server(f"http://127.0.0.1:{free_ports(1)[0]}/api"), STORE, closed)
