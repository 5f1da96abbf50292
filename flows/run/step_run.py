"""One step in its thread: join or submit its Ray job, follow it, and return how it ended.

Nothing here uses Prefect: the log and the progress handler are arguments, so that tests need no server.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flows.run import retries
from flows.run.job_log import Log, LogTail, error_text
from flows.run.launch import Launch, join_or_submit
from flows.run.preparation import Prepared
from flows.run.ray_jobs import Job, JobClient, RayAway
from flows.run.run_file import RunFile
from flows.run.shared_jobs import stop_job
from flows.run.turns import ahead_of
from model.errors import AgevlmError, StepError
from pipeline.artifacts.manifest import MANIFEST
from pipeline.artifacts.progress import progress_text, read_progress
from pipeline.artifacts.room import explained
from pipeline.artifacts.spec import short
from pipeline.artifacts.store import Artifact
from pipeline.plan.job import JobSpec
from pipeline.plan.planner import PlannedStep

POLL_SECONDS, LONG_POLL_SECONDS = 0.3, 1.0
"""Between two looks at a job on this machine: in its first LONG_SECONDS, and later. Each look costs Ray's servers time,
which the job itself could use."""
LONG_SECONDS = 20.0
REMOTE_POLL_SECONDS = 2.0
TURN_SECONDS = 2.0
"""Between two looks whether another job still has the turn."""
LOST_SECONDS = 30.0
TEARDOWN_SECONDS = 120.0
JOINS = 3
"""Jobs of one step, at most, if each was started and then stopped by another flow run."""
Ending = Literal["cached", "completed", "failed", "cancelled"]
ProgressHandler = Callable[[int, int, str], None]
"""Called with done, total and a line of text."""


@dataclass(frozen=True)
class StepResult:
    """The end of a step, with its artifact if there is one."""

    ending: Ending
    message: str
    artifact: Artifact | None = None
    job: str | None = None

    @property
    def made(self) -> bool:
        """True if its artifact exists."""
        return self.ending in ("cached", "completed")


class JobLostError(StepError):
    """Ray forgot a job: the cluster was restarted."""


class Stop:
    """Tells the threads of an execution to end; `cancelled`: their jobs are stopped too."""

    def __init__(self) -> None:
        self.cancelled = False
        self._event = threading.Event()

    def set(self) -> None:
        """Wake every thread, so that it ends."""
        self._event.set()

    def is_set(self) -> bool:
        """True once the threads should end."""
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Sleep, but wake up at once when set."""
        self._event.wait(seconds)


class StepRun:
    """One step of one flow run."""

    def __init__(
        self,
        step: PlannedStep,
        prepared: Prepared,
        client: JobClient,
        launch: Launch,
        run: RunFile,
        stop: Stop,
    ) -> None:
        self._step, self._prepared, self._client = step, prepared, client
        self._launch, self._run, self._stop = launch, run, stop
        self._tries = 1
        self.job: str | None = None
        """Submission id once the job is known; the main thread stops it on cancel."""
        self.tail: LogTail | None = None
        """Forwards the job's log. It may lag behind the job's end; the next step does not wait for it."""
        self.over = threading.Event()
        """Set when `follow` has returned: then this step starts no job any more."""
        self.result: StepResult | None = None
        """The result of `follow`, once it is over."""
        self._stopped: str | None = None
        self._submitting = False
        """True while a job is being submitted, and after a submission whose answer was lost: Ray may have the job."""

    def follow(self, log: Log, progress: ProgressHandler) -> StepResult:
        """Make the artifact with a Ray job and wait for it. An AgevlmError becomes a failed result.

        If the job was lost for a cause that may be gone (`retries`), it is started again after a pause.
        """
        try:
            for pause in (*retries.PAUSES, None):
                result, cause = self._try(log, progress)
                if cause is None or pause is None or self._ended:
                    break
                self._note_retry(log, cause, result, pause)
                self._stop.wait(pause)
            self.result = result
            return result
        finally:
            self.over.set()

    def stop_job(self, log: Log) -> None:
        """Stop the step's job on a cancel. Raises StepError if Ray does not do it."""
        job = self.job
        if job is not None:
            stop_job(self._client, self._prepared.store, job, self._launch.flow_run_id, log)
            self._stopped = job

    @property
    def nothing_left(self) -> bool:
        """True if the step has no job, or its job was stopped, and it will start no other."""
        return self.over.is_set() and not self._submitting and self.job == self._stopped

    def _note_retry(self, log: Log, cause: str, result: StepResult, pause: float) -> None:
        self._tries += 1
        last = len(retries.PAUSES) + 1
        log(f"{result.message}\nCause: {cause}. Try {self._tries} of {last} starts in {pause:g} s")
        self._run.step(self._step.key, message=f"try {self._tries} of {last}: {cause}")
        facts = {"attempt": self._tries, "cause": cause, "job": result.job, "pause_seconds": pause}
        self._run.event("retry", self._step.key, **facts)

    def _try(self, log: Log, progress: ProgressHandler) -> tuple[StepResult, str | None]:
        """Follow one job to its end. Returns the result and the cause for which it may be tried again, if any."""
        try:
            for _ in range(JOINS):
                job, joined = self._attach(log, progress)
                if not (joined and job is not None and job.state == "stopped") or self._stop.cancelled:
                    break
                log(f"Ray job {job.id} was stopped by the flow run that started it; starting anew")
            result, cause = self._result(job), self._cause(job)
            if cause is not None and self.job is not None:
                self._client.stop(self.job)  # Ray may call a job failed whose supervisor, and so its process, lives on
            return result, cause
        except RayAway as error:
            return self._failed(error), retries.RAY_AWAY
        except JobLostError as error:
            return self._failed(error), retries.CLUSTER_LOST
        except AgevlmError as error:
            return self._failed(error), None
        except OSError as error:  # the store cannot be written or read
            return self._failed(error, explained(error)), None

    @property
    def _ended(self) -> bool:
        return self._stop.cancelled or self._stop.is_set()

    def _failed(self, error: Exception, text: str = "") -> StepResult:
        if self._stop.cancelled:
            return StepResult("cancelled", f"the flow run was cancelled; {text or error}", job=self.job)
        return StepResult("failed", f"{type(error).__name__}: {text or error}", job=self.job)

    def _cause(self, job: Job | None) -> str | None:
        if job is None or self._prepared.store.get(self._step.ref) is not None:
            return None
        return retries.cause_of(job, error_text(job.message))

    def _attach(self, log: Log, progress: ProgressHandler) -> tuple[Job | None, bool]:
        """Join or submit the job and wait for it. Returns the job as it ended, and True if another run started it."""
        spec = self._prepared.job(self._step)
        while True:
            self._await_turn(spec, log)
            if self._ended:
                return None, False
            self._submitting = True
            self.job, joined = join_or_submit(self._client, self._launch, spec)
            self._submitting = False
            # The order matters: a cancel either finds the job here, or is found by the next line.
            if self._stop.cancelled:  # the cancel came while the job was being submitted
                self.stop_job(log)
            self._run.step(self._step.key, job=self.job)
            if joined or self._stop.cancelled or not self._ahead_of(spec, self.job):
                break
            log(f"Ray job {self.job} gives way to one that another flow run started at the same moment")
            self._client.stop(self.job)
        page = self._launch.settings.job_page(self.job)
        log(f"{'joined the living' if joined else 'started'} Ray job {self.job}  {page}")
        self._log_job(page, joined)
        self.tail = LogTail(self._client, self.job, log)
        return self._wait(progress), joined

    def _log_job(self, page: str, joined: bool) -> None:
        """Write the event 'submit' or 'join'."""
        assert self.job is not None
        facts = {"job": self.job, "page": page}
        if joined:
            known = self._client.job(self.job)
            facts["started_by"] = known.metadata.get("flow_run_id", "") if known is not None else ""
        self._run.event("join" if joined else "submit", self._step.key, **facts)

    def _ahead_of(self, spec: JobSpec, submission_id: str | None = None) -> list[Job]:
        """The jobs that have the turn. One whose artifact is published has made what it waited for: it only ends."""
        exists = self._prepared.store.fs.exists
        ahead = ahead_of(self._client, spec, submission_id)
        return [job for job in ahead if not exists(f"{job.metadata.get('artifact_folder')}/{MANIFEST}")]

    def _await_turn(self, spec: JobSpec, log: Log) -> None:
        """Wait while another job has this one's turn, or until the run ends."""
        shown: list[str] = []
        while not self._ended:
            ahead = [job.id for job in self._ahead_of(spec)]
            if not ahead:
                if shown:
                    self._run.step(self._step.key, message="")
                return
            if ahead != shown:
                shown = ahead
                log(f"waiting for Ray job {', '.join(ahead)}: masks of one subset are made by one job at a time")
                self._run.step(self._step.key, message=f"waits for {ahead[0]}")
            self._stop.wait(TURN_SECONDS)

    def _wait(self, progress: ProgressHandler) -> Job | None:
        """Wait until the job is over or the flow run is cancelled (then None)."""
        assert self.job is not None
        lost_since = published_since = None
        started = time.monotonic()
        shown: object = read_progress(self._prepared.store, self._step.id)  # perhaps of an earlier try
        while not self._stop.is_set():
            job = self._client.job(self.job)
            now = time.monotonic()
            if job is None:
                lost_since = lost_since or now
                if now - lost_since > LOST_SECONDS:
                    raise JobLostError(f"Ray no longer knows job {self.job}; was the cluster restarted? Run again")
            elif not job.alive:
                return job
            else:
                lost_since = None
                if self._prepared.store.get(self._step.ref) is not None:
                    published_since = published_since or now
                    if now - published_since > TEARDOWN_SECONDS:
                        return job  # the artifact is published; the job hangs in its teardown
            state = read_progress(self._prepared.store, self._step.id)
            if state is not None and state != shown:
                shown = state
                progress(int(state["done"]), int(state["total"]), progress_text(state))
            pause = POLL_SECONDS if now - started < LONG_SECONDS else LONG_POLL_SECONDS
            self._stop.wait(pause if self._prepared.store.is_local else REMOTE_POLL_SECONDS)
        return None

    def _result(self, job: Job | None) -> StepResult:
        artifact = self._prepared.store.get(self._step.ref)
        if artifact is not None:
            message = f"{artifact.ref}: {artifact.manifest.counts.summary}"
            return StepResult("completed", message, artifact, self.job)
        if self.job is None:
            return StepResult("cancelled", "the flow run was ended before this step started")
        if job is None or (job.state == "stopped" and self._stop.cancelled):
            fate = "was stopped" if self._stop.cancelled else "goes on; run again to join it"
            return StepResult("cancelled", f"the flow run was ended; its Ray job {self.job} {fate}", None, self.job)
        page = self._launch.settings.job_page(job.id)
        if job.state == "succeeded":
            what = f"its job ended without publishing {self._step.ref}"
        elif job.state == "stopped":
            what = "its Ray job was stopped from outside; run again to continue"
        else:
            what = error_text(job.message) or " ".join(job.message.split())[:300] or "its Ray job failed"
        return StepResult("failed", f"{what}  (log: {page})", None, self.job)


def cached(artifact: Artifact) -> StepResult:
    """The result of a step whose artifact exists."""
    manifest = artifact.manifest
    message = f"{artifact.ref} exists (manifest {short(manifest.sha256)}): {manifest.counts.summary}"
    return StepResult("cached", message, artifact, manifest.provenance.job)
