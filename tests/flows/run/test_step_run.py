"""One step in its thread: its endings and their messages."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows.run import retries
from flows.run.job_log import LogTail
from flows.run.launch import Launch, join_or_submit
from flows.run.preparation import Prepared
from flows.run.run_file import RunFile, read_run
from flows.run.step_run import StepResult, StepRun, Stop
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.job import JobSpec
from pipeline.steps import runner
from pipeline.steps.runner import run_job
from tests.flows.fixtures_fake_ray import FakeRay, fake_settings, publish_plainly
from tests.pipeline.plan.fixtures_toy_steps import STEP, toy_locations, toy_plan


class Stage:
    """A step run with its plan, run file and Ray."""

    def __init__(self, root: Path, ray: FakeRay) -> None:
        store = ArtifactStore(str(root))
        self.plan = toy_plan({"one": ({}, ())})
        prepared = Prepared("tiny", self.plan, toy_locations(root), store, None)
        self.store, self.ray, self.stop = store, ray, Stop()
        self.run_file = RunFile.begin(store, "run-1", "tiny", None)
        self.run_file.set_plan(self.plan)
        launch = Launch("tiny", "run-1", fake_settings(root))
        self.runner = StepRun(self.plan["one"], prepared, ray, launch, self.run_file, self.stop)
        self.log: list[str] = []
        self.news: list[tuple[int, int, str]] = []

    def follow(self) -> StepResult:
        return self.runner.follow(self.log.append, lambda *news: self.news.append(news))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setitem(runner.STEPS, "toy", STEP)
    monkeypatch.setattr(retries, "PAUSES", ())
    return Stage(tmp_path, FakeRay())


def test_a_job_that_publishes_completes_the_step(stage: Stage) -> None:
    def work(job: str, spec: JobSpec) -> None:
        run_job(spec)
        stage.ray.end(job, "succeeded")

    stage.ray.on_submit = work
    result = stage.follow()
    assert result.ending == "completed"
    assert result.artifact is not None
    assert result.message.endswith("2 of 3 rows, 1 rejected")
    assert "http://ray.test/#/jobs/tiny-one-" in stage.log[0]
    record = read_run(stage.store, "run-1")
    assert record is not None
    assert record.steps[0].job == result.job


def test_progress_is_handed_on(stage: Stage) -> None:
    def work(job: str, spec: JobSpec) -> None:
        def run() -> None:
            time.sleep(0.5)
            run_job(spec)
            time.sleep(0.6)
            stage.ray.end(job, "succeeded")

        threading.Thread(target=run).start()

    stage.ray.on_submit = work
    assert stage.follow().made
    assert stage.news == [(1, 1, "1/1 rows  loss 1")]


def test_a_failed_job_tells_the_error_that_it_printed(stage: Stage) -> None:
    def fail(job: str, spec: JobSpec) -> None:
        output = "one: making it\nOldError: first\nStepError: too many rejects:\n  odd: 3\nbye\n"
        stage.ray.output[job] = [output]
        stage.ray.end(job, "failed", f"Job entrypoint command failed with exit code 1, last available logs:\n{output}")

    stage.ray.on_submit = fail
    result = stage.follow()
    assert result.ending == "failed"
    assert result.message.startswith("StepError: too many rejects:\n  odd: 3  (log: http://ray.test/#/jobs/tiny-one-")
    assert stage.runner.tail is not None
    stage.runner.tail.close(10)
    assert stage.log[-1].startswith("one: making it\n")


def test_a_job_that_was_killed_tells_what_ray_says(stage: Stage) -> None:
    stage.ray.on_submit = lambda job, spec: stage.ray.end(job, "failed", "killed by\nSIGKILL")
    assert stage.follow().message.startswith("killed by SIGKILL  (log:")


def test_a_job_that_ends_well_without_an_artifact_is_a_failure(stage: Stage) -> None:
    stage.ray.on_submit = lambda job, spec: stage.ray.end(job, "succeeded")
    result = stage.follow()
    assert result.ending == "failed"
    assert "ended without publishing toy/one/" in result.message


def test_a_job_that_failed_after_publishing_counts_as_made(stage: Stage) -> None:
    def work(job: str, spec: JobSpec) -> None:
        run_job(spec)
        stage.ray.end(job, "failed", "exit code 1 in its teardown")

    stage.ray.on_submit = work
    assert stage.follow().ending == "completed"


def test_a_job_stopped_from_outside_says_how_to_go_on(stage: Stage) -> None:
    stage.ray.on_submit = lambda job, spec: stage.ray.end(job, "stopped")
    assert "stopped from outside; run again to continue" in stage.follow().message


def test_a_joined_job_that_its_run_stops_is_replaced_by_one_of_our_own(stage: Stage) -> None:
    publish = publish_plainly(stage.ray)
    job, _ = join_or_submit(stage.ray, stage.runner._launch, stage.runner._prepared.job(stage.plan["one"]))
    stage.ray.known[job] = replace(stage.ray.known[job], metadata={**stage.ray.known[job].metadata, "flow_run_id": "x"})
    stage.ray.on_submit = publish
    threading.Timer(0.3, lambda: stage.ray.stop(job)).start()
    result = stage.follow()
    assert result.ending == "completed"
    assert result.job == job.removesuffix("1") + "2"
    assert any("was stopped by the flow run that started it" in line for line in stage.log)


def test_a_cancelled_run_starts_nothing_in_place_of_the_job_that_it_joined(stage: Stage) -> None:
    job, _ = join_or_submit(stage.ray, stage.runner._launch, stage.runner._prepared.job(stage.plan["one"]))

    def cancel() -> None:  # in the order of PlanExecution: the mark, then the jobs, and only then the threads
        stage.stop.cancelled = True
        stage.ray.stop(job)
        threading.Timer(1.0, stage.stop.set).start()

    threading.Timer(0.3, cancel).start()
    result = stage.follow()
    assert (result.ending, list(stage.ray.known)) == ("cancelled", [job])
    assert not any("starting anew" in line for line in stage.log)


def test_a_flow_that_ends_leaves_its_job_alive(stage: Stage) -> None:
    stage.ray.on_submit = lambda job, spec: stage.stop.set()
    result = stage.follow()
    assert result.ending == "cancelled"
    assert "goes on" in result.message
    assert stage.ray.stopped == []


def test_a_cancel_while_the_job_is_being_submitted_stops_it(stage: Stage) -> None:
    def cancel(job: str, spec: JobSpec) -> None:
        stage.stop.cancelled = True
        stage.stop.set()

    stage.ray.on_submit = cancel
    result = stage.follow()
    assert result.ending == "cancelled"
    assert stage.ray.stopped == [result.job]


def test_nothing_is_submitted_after_a_cancel(stage: Stage) -> None:
    stage.stop.set()
    assert stage.follow().ending == "cancelled"
    assert stage.ray.known == {}


def test_a_cluster_that_forgot_the_job_is_told_of(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.run.step_run.LOST_SECONDS", 0.1)
    stage.ray.on_submit = lambda job, spec: stage.ray.known.clear()
    result = stage.follow()
    assert result.ending == "failed"
    assert "no longer knows job" in result.message


class Flaky(FakeRay):
    """A Ray whose log connection breaks in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.connections = 0

    def tail(self, submission_id: str) -> Iterator[str]:
        self.connections += 1
        yield "first\n"
        if self.connections == 1:
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield "second\n"


def test_a_broken_connection_neither_loses_nor_repeats_a_line() -> None:
    lines: list[str] = []
    ray = Flaky()
    tail = LogTail(ray, "job", lines.append)
    tail.close(10)
    assert lines == ["first", "second"]
    assert ray.connections == 2


def test_the_log_is_cleaned_of_colours() -> None:
    ray = FakeRay()
    ray.output["job"] = ["\x1b[31mred\x1b[0m\n", "\n"]
    lines: list[str] = []
    LogTail(ray, "job", lines.append).close(10)
    assert lines == ["red"]
