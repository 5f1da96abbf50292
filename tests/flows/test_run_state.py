"""The run file, and the hooks that read it in another process."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import cancellation
from flows.cancellation import close_run_file
from flows.ray_jobs import Job
from flows.run_state import RunFile, read_run
from flows.stopping import jobs_of, stop_job
from model.errors import ConfigError
from pipeline.artifacts.store import ArtifactStore
from tests.flows.fakes import FakeRay
from tests.flows.toy import toy_plan

PLAN = toy_plan({"a": ({}, ()), "b": ({}, ("a",)), "c": ({}, ("b",))})


def begin(root: Path, flow_run_id: str = "run-1") -> tuple[ArtifactStore, RunFile]:
    store = ArtifactStore(str(root))
    run = RunFile.begin(store, flow_run_id, "tiny", "agevlm/full-recipe")
    run.set_plan(PLAN)
    return store, run


def test_the_file_holds_what_a_watcher_needs(tmp_path: Path) -> None:
    store, run = begin(tmp_path)
    run.step("a", state="running", job="tiny-a-r1")
    value = store.read_json("runs/run-1.json")
    assert value is not None
    assert value["deployment"] == "agevlm/full-recipe"
    assert value["state"] == "running"
    assert value["steps"][0] == {
        "key": "a",
        "id": PLAN["a"].id,
        "kind": "toy",
        "name": "a",
        "state": "running",
        "job": "tiny-a-r1",
        "rows_in": None,
        "rows_out": None,
        "unit": "row",
        "rejected": {},
        "seconds": None,
        "message": "",
    }


def test_threads_lose_no_change(tmp_path: Path) -> None:
    store, run = begin(tmp_path)
    threads = [
        threading.Thread(target=lambda key=key: [run.step(key, rows_in=n) for n in range(40)]) for key in ("a", "b")
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    record = read_run(store, "run-1")
    assert record is not None
    assert [step.rows_in for step in record.steps] == [39, 39, None]


def test_a_retry_remembers_what_was_forced_and_nothing_else(tmp_path: Path) -> None:
    store, run = begin(tmp_path)
    run.update(forced={"spec": 1}, state="failed", message="boom", report="x.html")
    RunFile.begin(store, "run-1", "tiny", None)
    record = read_run(store, "run-1")
    assert record is not None
    assert (record.forced, record.state, record.message, record.report) == ({"spec": 1}, "running", "", None)


def test_the_jobs_of_a_run_are_those_it_started_and_those_it_joined(tmp_path: Path) -> None:
    store, run = begin(tmp_path)
    run.step("a", state="completed", job="done")
    run.step("b", state="running", job="joined")
    ray = FakeRay()
    ray.known = {
        "done": Job("done", "succeeded", {"flow_run_id": "run-1"}),
        "joined": Job("joined", "running", {"flow_run_id": "run-0"}),
        "started": Job("started", "pending", {"flow_run_id": "run-1"}),
        "other": Job("other", "running", {"flow_run_id": "run-2"}),
    }
    assert jobs_of(ray, read_run(store, "run-1"), "run-1") == ["joined", "started"]


def test_a_run_without_a_file_still_has_its_jobs() -> None:
    ray = FakeRay()
    ray.known = {"mine": Job("mine", "running", {"flow_run_id": "run-1"})}
    assert jobs_of(ray, None, "run-1") == ["mine"]


def test_a_job_that_another_run_waits_for_is_not_stopped(tmp_path: Path) -> None:
    store, run = begin(tmp_path)
    _, other = begin(tmp_path, "run-2")
    ray, lines = FakeRay(), list[str]()
    ray.known = {"shared": Job("shared", "running", {"flow_run_id": "run-1"})}
    for each in (run, other):
        each.step("b", state="running", job="shared")
    run.update(state="cancelling")
    stop_job(ray, store, "shared", "run-1", lines.append)
    assert ray.stopped == []
    assert lines == ["Ray job shared goes on, for flow run run-2 waits for it too"]
    # Both are cancelled at once: the one that looks last stops it. A run that crashed waits for nothing.
    other.update(state="cancelling")
    stop_job(ray, store, "shared", "run-2", lines.append)
    assert ray.stopped == ["shared"]


@pytest.mark.parametrize("content", ["", "{", '{"colour": "red"}'])
def test_a_damaged_file_of_another_run_hinders_no_cancel(tmp_path: Path, content: str) -> None:
    store, _ = begin(tmp_path)
    (tmp_path / "runs" / "run-0.json").write_text(content)
    ray = FakeRay()
    ray.known = {"mine": Job("mine", "running", {})}
    stop_job(ray, store, "mine", "run-1", lambda line: None)
    assert ray.stopped == ["mine"]
    with pytest.raises(ConfigError, match="run file of run-0"):
        read_run(store, "run-0")


def test_a_crashed_run_waits_for_nothing(tmp_path: Path) -> None:
    store, _ = begin(tmp_path)
    _, other = begin(tmp_path, "run-2")
    other.step("b", state="running", job="shared")
    other.close("crashed", "killed")
    ray = FakeRay()
    ray.known = {"shared": Job("shared", "running", {})}
    stop_job(ray, store, "shared", "run-1", lambda line: None)
    assert ray.stopped == ["shared"]


def test_closing_gives_a_dead_run_its_state_once(tmp_path: Path) -> None:
    store, run = begin(tmp_path)
    run.step("a", state="completed")
    run.step("b", state="running")
    close_run_file(store, "run-1", "crashed", "killed")
    close_run_file(store, "run-1", "cancelled", "later")
    record = read_run(store, "run-1")
    assert record is not None
    assert (record.state, record.message) == ("crashed", "killed")
    assert [step.state for step in record.steps] == ["completed", "crashed", "pending"]


def test_the_hooks_take_prefects_keywords_and_need_nothing_but_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = begin(tmp_path)
    ray = FakeRay()
    ray.known = {"mine": Job("mine", "running", {"flow_run_id": "run-1"})}
    monkeypatch.setattr(cancellation, "RayJobs", lambda url: ray)
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path))
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AGEVLM_RAY_JOBS_URL", "http://ray.test")
    cancellation.stop_jobs(flow=None, flow_run=SimpleNamespace(id="run-1"), state=None)  # type: ignore[arg-type]
    assert ray.stopped == ["mine"]
    record = read_run(store, "run-1")
    assert record is not None
    assert record.state == "cancelled"
    # Also where the run file is damaged: Ray knows which jobs the run started.
    (tmp_path / "runs" / "run-1.json").write_text("")
    ray.known["late"] = Job("late", "running", {"flow_run_id": "run-1"})
    cancellation.stop_jobs(flow=None, flow_run=SimpleNamespace(id="run-1"), state=None)  # type: ignore[arg-type]
    assert ray.stopped == ["mine", "late"]
