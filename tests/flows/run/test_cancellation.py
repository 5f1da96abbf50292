"""The hooks that Prefect runs in another process when a flow run is cancelled or its process dies."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.run import cancellation
from flows.run.cancel_mark import is_marked
from flows.run.cancellation import close_run_file
from flows.run.ray_jobs import Job
from flows.run.run_file import read_run
from model.errors import StepError
from tests.flows.fixtures_fake_ray import FakeRay, begin_run


def test_closing_gives_a_dead_run_its_state_once(tmp_path: Path) -> None:
    store, run = begin_run(tmp_path)
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
    store, _ = begin_run(tmp_path)
    ray = FakeRay()
    ray.known = {"mine": Job("mine", "running", {"flow_run_id": "run-1"})}
    monkeypatch.setattr(cancellation, "RayJobs", lambda url: ray)
    closed: list[tuple[str, str]] = []
    monkeypatch.setattr(cancellation, "close_task_runs", lambda id, state: closed.append((id, state.name)))
    looks: list[float] = []

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:  # its submission was under way when the process was killed
            ray.known["late-submission"] = Job("late-submission", "running", {"flow_run_id": "run-1"})

    monkeypatch.setattr(cancellation.time, "sleep", wait)
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path))
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AGEVLM_RAY_JOBS_URL", "http://ray.test")
    cancellation.stop_jobs(flow=None, flow_run=SimpleNamespace(id="run-1"), state=None)  # type: ignore[arg-type]
    assert ray.stopped == ["mine", "late-submission"]
    record = read_run(store, "run-1")
    assert record is not None
    assert record.state == "cancelled"
    assert closed == [("run-1", "Cancelled")], "a flow process that was killed cannot tell Prefect how its steps ended"
    # Also where the run file is damaged: Ray knows which jobs the run started.
    (tmp_path / "runs" / "run-1.json").write_text("")
    ray.known["late"] = Job("late", "running", {"flow_run_id": "run-1"})
    cancellation.stop_jobs(flow=None, flow_run=SimpleNamespace(id="run-1"), state=None)  # type: ignore[arg-type]
    assert ray.stopped == ["mine", "late-submission", "late"]


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeRay, Callable[[], None]]:
    """A Ray, and the cancellation hook of run-1, which finds it."""
    ray = FakeRay()
    monkeypatch.setattr(cancellation, "RayJobs", lambda url: ray)
    monkeypatch.setattr(cancellation, "close_task_runs", lambda id, state: None)
    monkeypatch.setattr(cancellation, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(cancellation, "STORE_SECONDS", 0.3)
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path))
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AGEVLM_RAY_JOBS_URL", "http://ray.test")
    run: Any = SimpleNamespace(id="run-1")
    return ray, lambda: cancellation.stop_jobs(flow=None, flow_run=run, state=None)  # type: ignore[arg-type]


Hook = tuple[FakeRay, Callable[[], None]]


def job_of_run(ray: FakeRay, *names: str) -> None:
    for name in names:
        ray.known[name] = Job(name, "running", {"flow_run_id": "run-1"})


def test_the_hook_does_nothing_for_a_run_that_is_over(tmp_path: Path, hook: Hook) -> None:
    ray, stop = hook
    store, run = begin_run(tmp_path)
    run.close("cancelled", "its own process stopped it")
    job_of_run(ray, "of-a-later-try")
    stop()
    assert ray.stopped == []
    assert not is_marked(store, "run-1")


@pytest.mark.parametrize("trouble", ["full", "away"])
def test_the_hook_stops_the_jobs_although_the_store_is_in_trouble(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    ray, stop = hook
    begin_run(tmp_path)
    job_of_run(ray, "mine")

    def fail(*_: object) -> None:
        if trouble == "away":
            time.sleep(20)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flows.run.run_file.write_run", fail)
    monkeypatch.setattr("flows.run.run_file.mark_cancel", fail)
    if trouble == "away":
        monkeypatch.setattr(cancellation, "read_run", fail)
    started = time.monotonic()
    stop()
    assert ray.stopped == ["mine"]
    assert time.monotonic() - started < 15


def test_a_job_that_ray_refuses_to_stop_keeps_the_run_open_and_no_other_job_alive(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray, stop = hook
    store, _ = begin_run(tmp_path)
    job_of_run(ray, "stubborn", "mine")
    stop_one, refused = ray.stop, list[str]()

    def refuse(job: str) -> None:
        if job == "stubborn":
            refused.append(job)
            raise StepError("Ray did not stop job stubborn")
        stop_one(job)

    monkeypatch.setattr(ray, "stop", refuse)
    stop()
    assert ray.stopped == ["mine"]
    assert len(refused) == cancellation.LOOKS, "it is asked again at each look"
    record = read_run(store, "run-1")
    assert record is not None
    assert record.state == "cancelling"


def test_the_hook_stops_all_jobs_at_once(tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    ray, stop = hook
    begin_run(tmp_path)
    job_of_run(ray, "one", "two")
    together, stop_one = threading.Barrier(2, timeout=10), ray.stop

    def stop_slowly(job: str) -> None:
        together.wait()
        stop_one(job)

    monkeypatch.setattr(ray, "stop", stop_slowly)
    stop()
    assert sorted(ray.stopped) == ["one", "two"]


def test_the_hook_marks_the_run_before_it_looks_who_else_waits(tmp_path: Path, hook: Hook) -> None:
    ray, stop = hook
    store, run = begin_run(tmp_path)
    _, other = begin_run(tmp_path, "run-2")
    for each in (run, other):
        each.step("b", state="running", job="shared")
    job_of_run(ray, "shared")
    stop()
    assert ray.stopped == [], "the other run waits for it"
    assert is_marked(store, "run-1")
    record = read_run(store, "run-1")
    assert record is not None
    assert record.state == "cancelled"
