"""The stop of a cancelled run, at moments that need no Prefect: submissions, lost answers, store or Ray in trouble."""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.run import retries, shared_jobs, stopping
from flows.run.ray_jobs import Job, RayAway
from flows.run.run_file import RunFile, begin_cancel, read_run
from flows.run.step_run import StepResult
from flows.run.stopping import attempt, stop_steps
from model.errors import StepError
from pipeline.plan.job import JobSpec
from pipeline.steps import runner
from tests.flows.fixtures_fake_ray import FakeRay, publish_plainly
from tests.flows.run.test_step_run import Stage
from tests.pipeline.plan.fixtures_toy_steps import STEP

LOG = logging.getLogger("test of stopping")


class HeldRay(FakeRay):
    """Calls `before` in front of each call, and `after_submit` before the answer to a submission."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.before: Callable[[str], None] = lambda call: None
        self.after_submit: Callable[[], None] = lambda: None

    def jobs(self) -> list[Job]:
        self.before("jobs")
        return super().jobs()

    def job(self, submission_id: str) -> Job | None:
        self.before("job")
        return super().job(submission_id)

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        self.before("submit")
        taken = super().submit(submission_id, entrypoint, metadata)
        self.after_submit()
        return taken

    def stop(self, submission_id: str) -> None:
        self.before("stop")
        super().stop(submission_id)

    @property
    def alive(self) -> list[str]:
        return [job.id for job in self.known.values() if job.alive]


@pytest.fixture
def ray() -> HeldRay:
    return HeldRay()


@pytest.fixture
def stage(tmp_path: Path, ray: HeldRay, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setitem(runner.STEPS, "toy", STEP)
    monkeypatch.setattr(retries, "PAUSES", ())
    monkeypatch.setattr(stopping, "CANCEL_SECONDS", 2.0)
    monkeypatch.setattr(stopping, "STORE_SECONDS", 0.3)
    monkeypatch.setattr(shared_jobs, "STORE_SECONDS", 0.3)
    return Stage(tmp_path, ray)


def follow(stage: Stage) -> tuple[threading.Thread, list[StepResult]]:
    """Follow the step in a thread."""
    results: list[StepResult] = []
    thread = threading.Thread(target=lambda: results.append(stage.follow()), daemon=True)
    thread.start()
    return thread, results


def cancel(stage: Stage) -> bool:
    stage.run_file.step("one", state="running")
    return stop_steps({"one": stage.runner}, stage.run_file, stage.stop, LOG)


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def reached(ray: HeldRay, call: str) -> threading.Event:
    """An event that is set when Ray is asked this; the call then waits for `ray.go`."""
    event = threading.Event()

    def before(asked: str) -> None:
        if asked == call and not event.is_set():
            event.set()
            assert ray.go.wait(20)

    ray.before = before
    return event


def test_a_running_job_is_stopped(stage: Stage, ray: HeldRay) -> None:
    thread, results = follow(stage)
    wait_until(lambda: stage.runner.job)
    assert cancel(stage)
    thread.join(20)
    assert (ray.stopped, results[0].ending) == ([results[0].job], "cancelled")
    record = read_run(stage.store, "run-1")
    assert record is not None
    assert record.state == "cancelling", "the mark is written before the jobs are stopped"


def test_a_cancel_before_the_submission_starts_nothing(stage: Stage, ray: HeldRay) -> None:
    asked = reached(ray, "jobs")
    thread, results = follow(stage)
    assert asked.wait(20)
    threading.Timer(0.3, ray.go.set).start()
    assert cancel(stage)
    thread.join(20)
    assert ray.alive == []
    assert results[0].ending == "cancelled"


def test_a_submission_that_ends_after_the_cancel_is_stopped(stage: Stage, ray: HeldRay) -> None:
    asked = reached(ray, "submit")
    thread, _ = follow(stage)
    assert asked.wait(20)
    threading.Timer(0.4, ray.go.set).start()
    assert cancel(stage)
    thread.join(20)
    assert len(ray.known) == 1
    assert ray.alive == []


def test_a_submission_that_hangs_is_left_to_the_hook(stage: Stage, ray: HeldRay) -> None:
    asked = reached(ray, "submit")
    thread, _ = follow(stage)
    assert asked.wait(20)
    started = time.monotonic()
    assert not cancel(stage), "nobody knows whether Ray will have the job"
    assert time.monotonic() - started < 10
    ray.go.set()
    thread.join(20)
    assert ray.alive == [], "if this process still lives, it stops the job all the same"


def test_a_submission_whose_answer_is_lost_leaves_a_job_that_the_hook_must_stop(stage: Stage, ray: HeldRay) -> None:
    def lose() -> None:
        stage.stop.cancelled = True
        raise RayAway("Ray does not answer")

    ray.after_submit = lose
    thread, results = follow(stage)
    thread.join(20)
    assert results[0].ending == "cancelled"
    assert len(ray.alive) == 1
    assert stage.runner.job is None
    assert not cancel(stage), "the job lives: the run must not be closed"


def test_a_lost_answer_in_a_second_try_is_not_taken_for_the_first_job(
    stage: Stage, ray: HeldRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(job: str, spec: JobSpec) -> None:
        if len(ray.known) == 1:
            ray.end(job, "failed", "Job entrypoint command failed with exit code -9. No logs available.")

    def lose() -> None:
        if len(ray.known) == 2:
            raise RayAway("Ray does not answer")

    ray.on_submit, ray.after_submit = work, lose
    monkeypatch.setattr(retries, "PAUSES", (0.01,))
    thread, _ = follow(stage)
    thread.join(20)
    assert stage.runner.job is not None
    assert stage.runner.job.endswith("-r1")
    assert ray.alive == [stage.runner.job[:-1] + "2"]
    assert not cancel(stage)


def test_an_answer_that_is_lost_and_found_is_our_own_job(stage: Stage, ray: HeldRay) -> None:
    submit = ray.submit

    def lost(submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        submit(submission_id, entrypoint, metadata)
        return False  # as RayJobs answers: Ray has a job of this id

    ray.submit = lost  # type: ignore[method-assign]
    ray.on_submit = publish_plainly(ray)
    assert stage.follow().made
    assert any(line.startswith("started Ray job") for line in stage.log)


def test_a_stop_that_ray_refuses_is_left_to_the_hook(stage: Stage, ray: HeldRay) -> None:
    thread, _ = follow(stage)
    wait_until(lambda: stage.runner.job)

    def refuse(call: str) -> None:
        if call == "stop":
            raise StepError("Ray did not stop it")

    ray.before = refuse
    assert not cancel(stage)
    thread.join(20)


def test_a_cancel_in_the_pause_before_another_try_starts_none(
    stage: Stage, ray: HeldRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "PAUSES", (60.0,))
    ray.on_submit = lambda job, spec: ray.end(job, "failed", "Job supervisor actor died: x")
    thread, _ = follow(stage)
    wait_until(lambda: any("Try 2 of" in line for line in stage.log))
    assert cancel(stage)
    thread.join(20)
    assert not thread.is_alive()
    assert len(ray.known) == 1


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/store")


def hang(*_: Any, **__: Any) -> None:
    time.sleep(5)


@pytest.mark.parametrize("trouble", [full, hang])
def test_a_store_in_trouble_does_not_keep_the_jobs_alive(
    stage: Stage, ray: HeldRay, monkeypatch: pytest.MonkeyPatch, trouble: Callable[..., None]
) -> None:
    thread, _ = follow(stage)
    wait_until(lambda: stage.runner.tail)
    stage.run_file.step("one", state="running")
    monkeypatch.setattr("flows.run.run_file.mark_cancel", trouble)
    monkeypatch.setattr("flows.run.shared_jobs.run_records", trouble)
    started = time.monotonic()
    assert stop_steps({"one": stage.runner}, stage.run_file, stage.stop, LOG)
    assert time.monotonic() - started < 10
    assert ray.alive == []
    assert stage.run_file.record.state == "cancelling", "so that nothing closes the run as if it had ended by itself"
    thread.join(20)


def test_a_write_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    attempt(full, "the end was not written", LOG)
    assert "the end was not written: [Errno 28]" in caplog.text


def test_a_job_that_another_run_waits_for_goes_on(stage: Stage, ray: HeldRay) -> None:
    thread, _ = follow(stage)
    wait_until(lambda: stage.runner.tail)
    other = RunFile.begin(stage.store, "run-2", "tiny", None)
    other.set_plan(stage.plan)
    other.step("one", state="running", job=stage.runner.job)
    assert cancel(stage), "there is nothing more to do for this run"
    thread.join(20)
    assert ray.alive == [stage.runner.job]
    begin_cancel(stage.store, "run-2")


def test_all_jobs_are_stopped_at_once(tmp_path: Path, stage: Stage, ray: HeldRay) -> None:
    together = threading.Barrier(2, timeout=10)
    other = Stage(tmp_path / "other", ray)
    threads = [follow(each)[0] for each in (stage, other)]
    wait_until(lambda: stage.runner.job and other.runner.job)

    def before(call: str) -> None:
        if call == "stop":
            together.wait()

    ray.before = before
    assert stop_steps({"one": stage.runner, "two": other.runner}, stage.run_file, stage.stop, LOG)
    other.stop.set()
    for thread in threads:
        thread.join(20)
    assert ray.alive == []


def test_a_step_whose_thread_has_not_ended_may_still_start_a_job(stage: Stage) -> None:
    assert stage.runner.job is None
    assert not stage.runner.nothing_left
    stage.stop.set()
    stage.follow()
    assert stage.runner.nothing_left
