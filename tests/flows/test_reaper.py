"""Runs whose process is gone are closed: in Prefect, their tasks, and their run file."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import web
from flows.ports import free_ports
from flows.reaper import MESSAGE, RUN_ID, crash_lost_runs, flow_run_of
from flows.run_state import RunRecord, StepRecord, read_run, run_path, write_run
from flows.state import StackError, StackState
from pipeline.artifacts.store import ArtifactStore
from tests.flows.servers import serving


class FakePrefect:
    """Prefect's API for flow runs and task runs that are unfinished."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.tasks: dict[str, list[str]] = {}
        self.states: list[tuple[str, str, dict[str, Any]]] = []
        self.deleted: set[str] = set()

    def __call__(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        match path.removeprefix("/api/").split("/"):
            case ["flow_runs", "filter"]:
                assert set(body["flow_runs"]["state"]["type"]["any_"]) == {"RUNNING", "CANCELLING", "PENDING"}
                return 200, self.runs
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
def state(prefect: FakePrefect, tmp_path: Path) -> Iterator[StackState]:
    with serving(prefect) as port:
        yield StackState(id="x", ports={"prefect": port}, store=str(tmp_path / "store"))


def run(id: str, deployment: str | None = "d1") -> dict[str, Any]:
    return {"id": id, "name": f"{id}-otter", "deployment_id": deployment}


def test_a_lost_run_is_closed_everywhere(state: StackState, prefect: FakePrefect) -> None:
    prefect.runs = [run("lost"), run("by-hand", deployment=None)]  # by hand: it may run on another machine
    prefect.tasks = {"lost": ["t1", "t2"], "by-hand": ["t3"]}
    store = ArtifactStore(state.store)
    steps = [
        StepRecord(key=key, id="0" * 64, kind="k", name="n", state=s)
        for key, s in (("a", "completed"), ("b", "running"))
    ]
    for id in ("lost", "by-hand"):
        write_run(store, RunRecord(flow_run_id=id, recipe="r", steps=tuple(steps)))

    assert crash_lost_runs(state) == ["lost-otter"]
    # The run comes last: what is interrupted before is found again.
    assert [(kind, id) for kind, id, _ in prefect.states] == [
        ("task_runs", "t1"),
        ("task_runs", "t2"),
        ("flow_runs", "lost"),
    ]
    assert {(body["state"]["type"], body["force"]) for _, _, body in prefect.states} == {("CRASHED", True)}
    record = read_run(store, "lost")
    assert record is not None
    assert (record.state, record.message) == ("crashed", MESSAGE)
    assert [step.state for step in record.steps] == ["completed", "crashed"]
    other = read_run(store, "by-hand")
    assert other is not None
    assert other.state == "running"


def test_a_run_without_a_file_is_closed_and_gets_none(state: StackState, prefect: FakePrefect) -> None:
    prefect.runs = [run("lost")]
    assert crash_lost_runs(state) == ["lost-otter"]
    assert read_run(ArtifactStore(state.store), "lost") is None


def test_a_run_that_was_deleted_meanwhile_is_none(state: StackState, prefect: FakePrefect) -> None:
    prefect.runs, prefect.deleted = [run("gone"), run("lost")], {"gone"}
    assert crash_lost_runs(state) == ["lost-otter"]


def test_a_damaged_run_file_does_not_keep_the_stack_from_starting(state: StackState, prefect: FakePrefect) -> None:
    prefect.runs = [run("lost")]
    path = Path(state.store) / run_path("lost")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"mood": "bad"}))
    (said,) = crash_lost_runs(state)
    assert said.startswith("lost-otter (its run file stays open: ")
    assert [id for _, id, _ in prefect.states] == ["lost"]


def test_a_run_whose_process_lives_is_left_alone(state: StackState, prefect: FakePrefect) -> None:
    prefect.runs = [run("alive")]
    environment = {**os.environ, RUN_ID: "alive"}
    with subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE) as process:
        while not flow_run_of(psutil.Process(process.pid)):
            pass  # for a moment its environment reads as empty
        assert crash_lost_runs(state) == []
        assert prefect.states == []
        process.communicate(b"\n", timeout=60)
    assert crash_lost_runs(state) == ["alive-otter"]


def test_a_server_that_does_not_list_its_runs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PAUSE", 0.01)
    monkeypatch.setattr(web, "PATIENCE", 0.05)
    with pytest.raises(StackError, match="does not list its flow runs"):
        crash_lost_runs(StackState(id="x", ports={"prefect": free_ports(1)[0]}))
