"""The execution of a plan: every ready step that fits the cluster runs as one Prefect task and one Ray job.

The tasks run in threads and only wait. The flow's main thread is the only one that receives Prefect's
TerminationSignal: it decides which step starts, and on a cancel it stops the jobs and wakes the threads.
"""

import queue
import time
from collections.abc import Callable
from typing import Any

from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed, Failed

from flows.run.job_log import Log
from flows.run.launch import Launch
from flows.run.own_state import CancelRequested, OwnState
from flows.run.prefect_notes import (
    Notes,
    ProgressBar,
    attempt_note,
    leave_contact_sheet,
    leave_run_note,
    leave_step_note,
    leave_summary,
)
from flows.run.preparation import Prepared
from flows.run.ray_jobs import JobClient
from flows.run.run_file import OPEN, RunFile
from flows.run.schedule import Schedule, check_feasible
from flows.run.settings import Totals
from flows.run.step_run import ProgressHandler, StepResult, StepRun, Stop, cached
from flows.run.step_task import Future, state_of, submit_step
from flows.run.stopping import attempt, stop_steps, undisturbed
from pipeline.artifacts.store import Artifact
from pipeline.plan.planner import PlannedStep
from pipeline.plan.status import existing, stale_steps, to_check

WAKE_SECONDS = 0.5
LOG_SECONDS = 5.0
SERVER_SECONDS = 900.0
"""Longest time for which a run whose steps are over waits for a Prefect server that is away, to tell it the end."""
REJECT_LIMIT = "max_reject_share"
"""In the message of a step that rejected too many rows."""
Body = Callable[[Log, ProgressHandler], StepResult]


class PlanExecution:
    """The execution of one flow run's plan."""

    def __init__(self, prepared: Prepared, client: JobClient, launch: Launch, run: RunFile) -> None:
        self._prepared, self._client, self._launch, self._run = prepared, client, launch, run
        self._own_state = OwnState(launch.flow_run_id)
        self._notes = Notes()
        self._schedule = Schedule(prepared.plan)
        self._stop = Stop()
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._futures: dict[str, Future] = {}
        self._results: dict[str, StepResult] = {}
        self._settled: set[str] = set()
        self._skipped: set[str] = set()
        self._runs: dict[str, StepRun] = {}
        self._log = get_run_logger()

    def run(self) -> State[Any]:
        """Run every step to its end. Jobs are stopped when the run is cancelled, and only then."""
        try:
            self._settle_existing()
            if not self._schedule.finished:
                self._run_steps(self._totals())
            for key, future in list(self._futures.items()):
                future.wait()
                self._settle(key)
            return self._finish()
        except (TerminationSignal, KeyboardInterrupt):
            self._cancel()
            raise
        except CancelRequested:
            self._log.warning("the flow run is being cancelled, and its worker did not say so")
            self._cancel()
            return Cancelled(message="the flow run was cancelled")
        finally:
            self._own_state.close()
            self._stop.set()  # ends the threads; without a cancel their jobs go on, and another run can join them

    # -- steps whose artifact exists

    def _settle_existing(self) -> None:
        """Settle cached steps first, without a call to Ray: a run with nothing to do is over in seconds.

        A step with an ancestor that is made again in this run waits for it: it may come out the same.
        """
        plan, artifacts = self._prepared.plan, self._existing()
        stale, later = stale_steps(plan, artifacts), to_check(plan, artifacts)
        for step in plan:
            artifact = artifacts.get(step.key)
            if artifact is not None and step.key not in later and step.key not in self._schedule.broken:
                self._settle_artifact(step, artifact, stale.get(step.key))

    def _settle_ready(self, step: PlannedStep) -> bool:
        """Settle a step that is about to start if its artifact exists. Returns True if it does."""
        artifact = self._prepared.store.get(step.ref)
        if artifact is None:
            return False
        self._settle_artifact(step, artifact, stale_steps(self._prepared.plan, self._existing()).get(step.key))
        return True

    def _existing(self) -> dict[str, Artifact]:
        return existing(self._prepared.plan, self._prepared.store)

    def _settle_artifact(self, step: PlannedStep, artifact: Artifact, why_stale: str | None) -> None:
        if why_stale is None:
            self._schedule.made(step.key)
            self._record(step.key, cached(artifact))
            self._launch_settled(step, cached(artifact))
            return
        message = (
            f"ArtifactError: {artifact.ref} is stale: {why_stale}. Make it anew beside the old one with "
            f'force = ["{step.key}"], or restore the old input with the same bytes'
        )
        self._launch_settled(step, StepResult("failed", message))
        self._skip(step.key)

    def _launch_settled(self, step: PlannedStep, result: StepResult) -> None:
        self._launch_task(step, lambda _log, _progress: result)

    # -- running

    def _totals(self) -> Totals:
        totals = self._launch.settings.totals or self._client.totals()
        check_feasible(self._prepared.plan, totals)
        return totals

    def _run_steps(self, totals: Totals) -> None:
        while not self._schedule.finished:
            for step in self._schedule.ready(totals):
                if self._settle_ready(step):
                    continue
                runner = StepRun(step, self._prepared, self._client, self._launch, self._run, self._stop)
                # The order of these lines matters: a cancel may come between any two of them, and it looks up the
                # runner of each running step.
                self._runs[step.key] = runner
                self._schedule.start(step.key)
                self._run.step(step.key, state="running")
                self._launch_task(step, runner.follow)
            self._collect(block=True)

    def _launch_task(self, step: PlannedStep, body: Body) -> None:
        def make() -> State[Any]:
            result = self._body(step, body)
            self._results[step.key] = result
            return state_of(result)

        self._submit(step, make).add_done_callback(lambda _: self._ended.put(step.key))

    def _submit(self, step: PlannedStep, make: Callable[[], State[Any]]) -> Future:
        """Submit the task of a step, with the step's name and the plan's edges in the UI."""

        known = [key for key in step.inputs.values() if key in self._futures and key not in self._skipped]
        future = submit_step(step, make, [self._futures[key] for key in known])  # a skipped one would hold it back
        self._futures[step.key] = future
        return future

    def _body(self, step: PlannedStep, body: Body) -> StepResult:
        """Run a step and leave its notes; called in the task's thread, inside its Prefect context."""
        log = get_run_logger()
        recipe, settings = self._prepared.recipe, self._launch.settings
        bar = ProgressBar(recipe, step.key)

        def show(done: int, total: int, line: str) -> None:
            attempt_note(lambda: bar.show(done, total, line), log.warning)

        result = body(log.info, show)
        if result.ending == "failed" and REJECT_LIMIT in result.message:
            self._tell_rejects(step, result)
        if result.made:
            log.info(result.message)
            self._notes.leave(bar.close, log.warning)
        self._notes.leave(lambda: leave_step_note(recipe, step, result, settings), log.warning)
        self._notes.leave(lambda: leave_contact_sheet(recipe, step, result), log.warning)
        return result

    def _tell_rejects(self, step: PlannedStep, result: StepResult) -> None:
        """Tell Prefect's automations that a step rejected too many rows."""
        facts = {"step": step.key, "artifact": str(step.ref), "job": result.job, "message": result.message[:2000]}
        resource = {"prefect.resource.id": f"agevlm.step.{step.key}", "prefect.resource.name": step.key}
        emit_event("agevlm.step.reject-budget", resource=resource, payload=facts)

    def _collect(self, *, block: bool) -> None:
        """Settle the steps that ended; with `block`, wait a moment for one."""
        self._own_state.check()
        try:
            key = self._ended.get(timeout=WAKE_SECONDS) if block else self._ended.get_nowait()
            while True:
                self._settle(key)
                key = self._ended.get_nowait()
        except queue.Empty:
            return

    def _settle(self, key: str) -> None:
        if key in self._settled:
            return
        self._settled.add(key)
        result = self._results.get(key)
        if result is None:  # the task failed outside of its body, in Prefect itself: its state has the reason
            state = self._futures[key].state
            result = self._results[key] = StepResult("failed", state.message or f"its task ended {state.name}")
        self._record(key, result)
        if result.made:
            self._schedule.made(key)
            return
        if key not in self._schedule.broken:
            self._skip(key)

    def _skip(self, key: str) -> None:
        """Mark everything that needed a failed step."""
        for step in self._schedule.failed(key):
            message = f"not run: it needs {self._schedule.broken[step.key]}, which failed"
            self._run.step(step.key, state="skipped", message=message)
            self._mark_skipped(step, message)

    def _mark_skipped(self, step: PlannedStep, message: str) -> None:
        self._settled.add(step.key)
        self._skipped.add(step.key)
        self._submit(step, lambda: Cancelled(name="Skipped", message=message))

    def _record(self, key: str, result: StepResult) -> None:
        changes: dict[str, object] = {"state": result.ending, "message": result.message, "job": result.job}
        if result.artifact is not None:
            manifest = result.artifact.manifest
            counts = manifest.counts
            changes |= {"rows_in": counts.rows_in, "rows_out": counts.rows_out, "rejected": dict(counts.rejected)}
            changes |= {"seconds": manifest.provenance.seconds, "bytes": manifest.bytes}
            if result.artifact.ref.kind == "report":
                page = next(iter(result.artifact.matching(suffix=".html")), None)
                self._run.update(report=None if page is None else result.artifact.location(page))
        self._run.step(key, **changes)

    # -- the end

    def _cancel(self) -> None:
        """Stop the jobs of this run, then wake its threads. Jobs that could not be stopped are left to the hook."""
        with undisturbed():
            if self._run.record.state not in OPEN:  # its end is written, and only Prefect does not know it yet
                return
            running = {key: self._runs[key] for key in sorted(self._schedule.running)}
            done = stop_steps(running, self._run, self._stop, self._log)
            attempt(lambda: self._record_cancel(running, done), "the end of the run was not written", self._log)

    def _record_cancel(self, running: dict[str, StepRun], done: bool) -> None:
        for key, runner in running.items():
            if runner.result is not None and runner.result.made:  # its job was just over
                self._record(key, runner.result)
            else:
                self._run.step(key, state="cancelled", message="the flow run was cancelled")
        if done:
            self._run.close("cancelled", "the flow run was cancelled and its jobs were stopped")

    def _drain_logs(self) -> None:
        """Give the logs of the jobs, which lag behind them by a second or two, a moment to arrive."""
        deadline = time.monotonic() + LOG_SECONDS
        for runner in self._runs.values():
            if runner.tail is not None:
                runner.tail.close(max(0.0, deadline - time.monotonic()))

    def _wait_for_server(self) -> None:
        if self._own_state.wait_for_server(0.0):
            return
        self._log.warning(
            f"the run is {self._run.record.state}, and the Prefect server does not answer: waiting for it "
            f"{SERVER_SECONDS / 60:.0f} minutes at most, to tell it"
        )
        self._own_state.wait_for_server(SERVER_SECONDS)

    def _finish(self) -> State[Any]:
        self._drain_logs()
        record = self._run.record
        failed = [step.key for step in record.steps if step.state in ("failed", "cancelled")]
        skipped = [step.key for step in record.steps if step.state == "skipped"]
        counts = {name: sum(s.state == name for s in record.steps) for name in ("cached", "completed")}
        if failed:
            first = next(step.message for step in record.steps if step.key == failed[0])
            message = f"failed: {', '.join(failed)}; not run: {', '.join(skipped) or 'none'}. {failed[0]}: {first}"
        else:
            message = f"{len(record.steps)} steps: {counts['completed']} made, {counts['cached']} cached"
        self._run.update(state="failed" if failed else "completed", message=message)
        # What the server missed is told once it is back: notes are left again, and Prefect's client sends the events of
        # an outage, the states of task runs among them, before its next one.
        self._wait_for_server()
        self._notes.leave_again()
        resource = {"prefect.resource.id": f"agevlm.run.{record.flow_run_id}", "prefect.resource.name": record.recipe}
        emit_event("agevlm.run.end", resource=resource, payload={"message": message})
        attempt_note(lambda: leave_summary(self._run.record), self._log.warning)
        attempt_note(lambda: leave_run_note(self._run.record, self._launch.settings), self._log.warning)
        return Failed(message=message) if failed else Completed(message=message)
