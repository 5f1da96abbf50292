"""Failures of a job that are tried again, and the state that a new try keeps."""

import shlex
import threading
import time
from pathlib import Path

import pytest

from flows.run import retries
from flows.run.event_log import read_events
from flows.run.job_log import error_text
from flows.run.ray_jobs import Job, RayAway
from flows.run.retries import cause_of
from model.errors import StepError
from pipeline.plan.job import JobSpec, read_job
from pipeline.steps import runner
from pipeline.steps.runner import run_job
from tests.flows.fixtures_fake_ray import FakeRay, publish_plainly
from tests.flows.run.test_step_run import Stage
from tests.pipeline.plan.fixtures_toy_steps import STEP

EXIT = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\n{}"


@pytest.mark.parametrize(
    ("message", "again"),
    [
        (EXIT.format(-9, "one: making it\n"), True),
        (EXIT.format(-15, ""), True),
        (EXIT.format(-11, "Fatal Python error: Segmentation fault\n"), True),
        ("Job entrypoint command failed with exit code -9. No logs available.", True),
        ("Job supervisor actor died: The actor died unexpectedly before finishing this task.", True),
        ("Unexpected error occurred: failed to get job supervisor.", True),
        ("Job supervisor actor failed to start within 900 seconds.", True),
        ("Job supervisor actor could not be scheduled: no node has the label", True),
        ("Failed to start supervisor actor tiny-one-r1: 'the GCS is away'. Full traceback:\nTraceback", True),
        ("Unexpected error occurred: The actor x is unavailable: RPC error", True),
        (EXIT.format(1, "ray.exceptions.ActorDiedError: in its creation task, x\n  File y\nValueError: bad\n"), False),
        (EXIT.format(1, "TransientError: a loader process died: 77\n"), True),
        (EXIT.format(1, "Traceback:\n  x\nray.exceptions.NodeDiedError: a node died\n"), True),
        (EXIT.format(1, "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low\n"), True),
        (EXIT.format(1, "TransientError: a worker died\nbye\nDataError: 9 of 10 records were rejected\n"), False),
        (EXIT.format(1, "ConfigError: recipe: wrong\n"), False),
        (EXIT.format(1, "DataError: 5 of 9 rows were rejected, more than max_reject_share = 0.1 allows:\n"), False),
        (EXIT.format(1, "ArtifactError: damaged\n"), False),
        (EXIT.format(1, "StepError: it cannot be\n"), False),
        (EXIT.format(1, "ValueError: a bug\n"), False),
        (EXIT.format(1, "OSError: [Errno 28] No space left on device\n"), False),
        (EXIT.format(1, "a text with exit code -9 in it\n"), False),
        ("runtime_env setup failed: no such folder", False),
        ("", False),
    ],
)
def test_the_causes(message: str, again: bool) -> None:
    assert (cause_of(Job("job", "failed", {}, message), error_text(message)) is not None) is again


@pytest.mark.parametrize("state", ["stopped", "succeeded"])
def test_a_job_that_did_not_fail_is_not_tried_again(state: str) -> None:
    assert cause_of(Job("job", state, {}, EXIT.format(-9, "")), "") is None  # type: ignore[arg-type]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setitem(runner.STEPS, "toy", STEP)
    monkeypatch.setattr(retries, "PAUSES", (0.05, 0.05, 0.05))
    return Stage(tmp_path, FakeRay())


def events_of(stage: Stage) -> list[dict[str, object]]:
    """The events of tries that were made again."""
    return [event for event in read_events(stage.store, "run-1") if event["event"] == "retry"]


def killed_times(stage: Stage, times: int) -> None:
    """Let the first jobs be killed, and the next one publish."""
    publish = publish_plainly(stage.ray)

    def work(job: str, spec: JobSpec) -> None:
        if len(stage.ray.known) <= times:
            return stage.ray.end(job, "failed", EXIT.format(-9, ""))
        return publish(job, spec)

    stage.ray.on_submit = work


def test_a_killed_job_is_tried_again_under_the_same_artifact_id(stage: Stage) -> None:
    killed_times(stage, 2)
    result = stage.follow()
    assert result.ending == "completed"
    assert [job[-3:] for job in stage.ray.known] == ["-r1", "-r2", "-r3"]
    assert len({job.metadata["artifact"] for job in stage.ray.known.values()}) == 1
    found = events_of(stage)
    assert [(e["event"], e["step"], e["attempt"]) for e in found] == [("retry", "one", 2), ("retry", "one", 3)]
    assert all("killed" in str(e["cause"]) for e in found)
    assert any("Try 2 of 4 starts in 0.05 s" in line for line in stage.log)


def test_tries_are_bounded(stage: Stage) -> None:
    killed_times(stage, 99)
    assert stage.follow().ending == "failed"
    assert len(stage.ray.known) == 4


def test_a_restarted_cluster_is_given_the_job_anew(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.run.step_run.LOST_SECONDS", 0.1)
    publish, forgotten = publish_plainly(stage.ray), []

    def work(job: str, spec: JobSpec) -> None:
        if forgotten:
            return publish(job, spec)
        forgotten.append(job)
        return stage.ray.known.clear()

    stage.ray.on_submit = work
    assert stage.follow().ending == "completed"
    assert "restarted" in str(events_of(stage)[0]["cause"])


def test_a_ray_that_is_away_for_long_is_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.ray.on_submit = publish_plainly(stage.ray)
    jobs, calls = stage.ray.jobs, []

    def away() -> list[Job]:
        calls.append(1)
        if len(calls) == 1:
            raise RayAway("Ray does not answer")
        return jobs()

    monkeypatch.setattr(stage.ray, "jobs", away)
    assert stage.follow().ending == "completed"


def test_an_error_of_ours_is_not_tried_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise StepError("Ray refused the job")

    monkeypatch.setattr(stage.ray, "submit", refuse)
    assert stage.follow().message == "StepError: Ray refused the job"
    assert events_of(stage) == []


def test_a_cancel_during_the_pause_ends_the_step(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSES", (60.0,))
    killed_times(stage, 1)

    def cancel() -> None:
        stage.stop.cancelled = True
        stage.stop.set()

    threading.Timer(1.0, cancel).start()
    started = time.monotonic()
    stage.follow()
    assert time.monotonic() - started < 20
    assert len(stage.ray.known) == 1, "nothing is started after a cancel"


def test_a_job_that_was_killed_because_of_the_cancel_is_not_tried_again(stage: Stage) -> None:
    def work(job: str, spec: JobSpec) -> None:
        stage.stop.cancelled = True
        stage.ray.end(job, "failed", EXIT.format(-15, ""))

    stage.ray.on_submit = work
    stage.follow()
    assert len(stage.ray.known) == 1
    assert events_of(stage) == []


def test_a_job_that_ray_calls_failed_is_stopped_before_the_next_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray says 'failed' when it loses sight of the job's supervisor, whose process may live on.
    calls: list[str] = []
    submit = stage.ray.submit

    def noted(submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        calls.append(f"submit {submission_id[-2:]}")
        return submit(submission_id, entrypoint, metadata)

    monkeypatch.setattr(stage.ray, "submit", noted)
    monkeypatch.setattr(stage.ray, "stop", lambda job: calls.append(f"stop {job[-2:]}"))
    killed_times(stage, 1)
    assert stage.follow().made
    assert calls == ["submit r1", "stop r1", "submit r2"]


def test_a_job_that_lives_while_ray_was_away_is_joined_and_not_stopped(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, job, calls = publish_plainly(stage.ray), stage.ray.job, []

    def away_once(submission_id: str) -> Job | None:
        calls.append(1)
        if len(calls) == 1:
            raise RayAway("Ray does not answer")
        if len(calls) == 3:
            publish(submission_id, read_job(shlex.split(stage.ray.commands[submission_id])[-1]))
        return job(submission_id)

    monkeypatch.setattr(stage.ray, "job", away_once)
    assert stage.follow().made
    assert (len(stage.ray.known), stage.ray.stopped) == (1, [])


def test_a_job_that_published_and_was_killed_is_not_tried_again(stage: Stage) -> None:
    def work(job: str, spec: JobSpec) -> None:
        run_job(spec)
        stage.ray.end(job, "failed", EXIT.format(-9, ""))

    stage.ray.on_submit = work
    assert stage.follow().made
    assert (len(stage.ray.known), events_of(stage)) == (1, [])


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_run_that_ends_just_when_its_job_failed_tells_of_no_other_try(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    def end(job: str) -> None:  # after the cause is known
        stage.stop.cancelled = cancelled
        if not cancelled:
            stage.stop.set()

    monkeypatch.setattr(stage.ray, "stop", end)
    killed_times(stage, 1)
    stage.follow()
    assert (len(stage.ray.known), events_of(stage)) == (1, [])
