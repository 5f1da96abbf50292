"""A cancel at every moment of a run: no job of the run is alive afterwards, and nothing waits for long."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.states import State, StateType

from flows.run import execution, own_state, stopping
from flows.run.event_log import read_events
from flows.run.execution import PlanExecution
from flows.run.own_state import OwnState
from flows.run.settings import Totals
from model.errors import StepError
from pipeline.artifacts.store import ArtifactStore
from tests.flows.fixtures_fake_ray import FakeRay, publish_plainly
from tests.flows.run.test_execution import SEEN, record_of, run


class SlowRay(FakeRay):
    """Jobs run until they are stopped. Submitting the steps in `slow` takes until `go` is set."""

    def __init__(self, *slow: str) -> None:
        super().__init__(Totals(cpus=4))
        self.slow, self.go, self.submitting = slow, threading.Event(), threading.Event()
        self.on_stop: Callable[[str], None] = lambda job: None

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        if metadata["step"] in self.slow:
            self.submitting.set()
            assert self.go.wait(30)
        return super().submit(submission_id, entrypoint, metadata)

    def stop(self, submission_id: str) -> None:
        self.on_stop(submission_id)
        super().stop(submission_id)

    @property
    def alive(self) -> list[str]:
        return [job.id for job in self.known.values() if job.alive]


def interrupt_when(condition: Callable[[PlanExecution], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise in the flow's main thread, as Prefect's signal handler does, as soon as the condition holds."""
    collect = PlanExecution._collect

    def interrupted(self: PlanExecution, *, block: bool) -> None:
        if condition(self):
            raise KeyboardInterrupt
        collect(self, block=block)

    monkeypatch.setattr(PlanExecution, "_collect", interrupted)


def cancelled_run(steps: dict[str, Any], ray: SlowRay) -> float:
    """Run until the interrupt. Returns the seconds that the whole run took."""
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(steps, ray)
    return time.monotonic() - started


def test_a_cancel_while_a_job_is_being_submitted(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SlowRay("a")
    interrupt_when(lambda _: ray.submitting.is_set(), monkeypatch)
    threading.Timer(0, lambda: (ray.submitting.wait(60), time.sleep(1.5), ray.go.set())).start()
    cancelled_run({"a": [{}, []]}, ray)
    assert len(ray.known) == 1
    assert ray.alive == [], "the run ended, and its job goes on"
    record = record_of(SEEN[-1])
    assert (record.state, record.steps[0].state) == ("cancelled", "cancelled")


def test_a_submission_that_ends_while_another_job_is_being_stopped(
    surroundings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 'a' has no job yet when the cancel looks for jobs to stop; it gets one while 'b' is being stopped.
    ray = SlowRay("a")

    def on_stop(job: str) -> None:
        if "-b-" in job:
            ray.go.set()
            time.sleep(1.0)

    ray.on_stop = on_stop
    interrupt_when(
        lambda self: ray.submitting.is_set() and "b" in self._runs and self._runs["b"].job is not None, monkeypatch
    )
    cancelled_run({"a": [{}, []], "b": [{}, []]}, ray)
    assert len(ray.known) == 2
    assert ray.alive == []
    assert record_of(SEEN[-1]).state == "cancelled"


def test_a_ray_that_never_answers_does_not_hold_up_the_cancel(
    surroundings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "CANCEL_SECONDS", 1.0)
    ray, hang = SlowRay(), threading.Event()
    jobs = {"a": [{}, []], "b": [{}, []], "c": [{}, []]}

    def on_stop(job: str) -> None:
        if "-b-" in job:
            hang.wait(60)
        if "-c-" in job:
            raise StepError("Ray did not stop it")

    ray.on_stop = on_stop
    interrupt_when(lambda self: sum(r.job is not None for r in self._runs.values()) == 3, monkeypatch)
    started: list[float] = []
    cancel = PlanExecution._cancel

    def timed(self: PlanExecution) -> None:
        started.append(time.monotonic())
        cancel(self)
        started.append(time.monotonic())

    monkeypatch.setattr(PlanExecution, "_cancel", timed)
    cancelled_run(jobs, ray)
    hang.set()
    assert started[1] - started[0] < 10
    assert [job.split("-")[1] for job in ray.stopped][:1] == ["a"], "the others are stopped all the same"
    assert record_of(SEEN[-1]).state == "cancelling", "the hook looks again"


def test_a_second_cancel_does_not_interrupt_the_first(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray, before = SlowRay(), signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of a shell ignores it

    def on_stop(job: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)

    ray.on_stop = on_stop
    interrupt_when(lambda self: any(r.job for r in self._runs.values()), monkeypatch)
    try:
        cancelled_run({"a": [{}, []]}, ray)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert ray.alive == []
    assert record_of(SEEN[-1]).state == "cancelled"


def test_a_cancel_between_two_steps(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SlowRay()
    interrupt_when(lambda self: not self._schedule.running, monkeypatch)
    started: list[str] = []
    monkeypatch.setattr(PlanExecution, "_launch_task", lambda self, step, body: started.append(step.key))
    interrupt_when(lambda self: True, monkeypatch)
    monkeypatch.setattr(stopping, "CANCEL_SECONDS", 0.5)
    cancelled_run({"a": [{}, []], "b": [{}, ["a"]]}, ray)
    assert ray.known == {}
    assert [step.state for step in record_of(SEEN[-1]).steps] == ["cancelled", "pending"]


def test_a_cancel_is_seen_at_the_server_without_any_signal(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_state, "WATCH_SECONDS", 0.3)
    monkeypatch.setattr(own_state, "GRACE_SECONDS", 0.0)
    ray = SlowRay()

    def cancel_at_the_server(job: str, spec: object) -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(SEEN[-1], State(type=StateType.CANCELLING), force=True)  # type: ignore[arg-type]

    ray.on_submit = cancel_at_the_server
    state, record = run({"a": [{}, []], "b": [{}, ["a"]]}, ray)
    assert state.type is StateType.CANCELLED
    assert ray.alive == []
    assert record.state == "cancelled"


def test_a_cancel_of_a_run_that_waits_for_the_server_at_its_end_changes_nothing(
    surroundings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: PlanExecution) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PlanExecution, "_wait_for_server", interrupted)
    ray = SlowRay()
    ray.on_submit = publish_plainly(ray)
    cancelled_run({"a": [{}, []]}, ray)
    record = record_of(SEEN[-1])
    assert (record.state, record.message) == ("completed", "1 steps: 1 made, 0 cached")
    store = ArtifactStore(str(surroundings))
    assert [e["event"] for e in read_events(store, SEEN[-1])][-2:] == ["publish", "run_end"]


def test_a_run_tells_its_end_before_it_waits_for_a_server_that_is_away(
    surroundings: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[tuple[float, str]] = []

    def away(self: OwnState, seconds: float) -> bool:
        waits.append((seconds, record_of(SEEN[-1]).state))
        return False

    monkeypatch.setattr(OwnState, "wait_for_server", away)
    ray = SlowRay()
    ray.on_submit = publish_plainly(ray)
    state, _ = run({"a": [{}, []]}, ray)
    assert state.type is StateType.COMPLETED
    assert waits == [(0.0, "completed"), (execution.SERVER_SECONDS, "completed")]
    assert execution.SERVER_SECONDS <= 1800
    assert "the run is completed, and the Prefect server does not answer" in caplog.text


def test_a_step_that_was_just_over_when_the_cancel_came_counts_as_made(
    surroundings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = SlowRay()
    ray.on_submit = publish_plainly(ray)

    def interrupted(self: PlanExecution, key: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PlanExecution, "_settle", interrupted)
    cancelled_run({"a": [{}, []], "b": [{}, ["a"]]}, ray)
    record = record_of(SEEN[-1])
    assert (record.state, [step.state for step in record.steps]) == ("cancelled", ["completed", "pending"])
