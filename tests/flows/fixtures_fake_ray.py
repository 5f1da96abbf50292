"""An in-memory stand-in for Ray's Jobs API: jobs that end when a test ends them, or make an artifact in a thread."""

import shlex
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from flows.run.ray_jobs import Job, JobState
from flows.run.run_file import RunFile
from flows.run.settings import Settings, Totals
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.job import JobSpec, read_job
from tests.pipeline.plan.fixtures_toy_steps import toy_plan

CHAIN = toy_plan({"a": ({}, ()), "b": ({}, ("a",)), "c": ({}, ("b",))})


class FakeRay:
    """Implements JobClient in memory. `on_submit` may finish a job at once."""

    def __init__(self, totals: Totals | None = None) -> None:
        self.known: dict[str, Job] = {}
        self.commands: dict[str, str] = {}
        self.output: dict[str, list[str]] = {}
        self.stopped: list[str] = []
        self.totals_asked = 0
        self.most_alive = 0
        self._totals = totals or Totals(cpus=2)
        self._lock = threading.Lock()
        self.on_submit: Callable[[str, JobSpec], None] = lambda job, spec: None

    def jobs(self) -> list[Job]:
        with self._lock:
            return list(self.known.values())

    def job(self, submission_id: str) -> Job | None:
        with self._lock:
            return self.known.get(submission_id)

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        with self._lock:
            if submission_id in self.known:
                return False
            self.known[submission_id] = Job(submission_id, "running", metadata)
            self.commands[submission_id] = entrypoint
            self.most_alive = max(self.most_alive, sum(job.alive for job in self.known.values()))
        self.on_submit(submission_id, read_job(shlex.split(entrypoint)[-1]))
        return True

    def stop(self, submission_id: str) -> None:
        job = self.job(submission_id)
        if job is not None and job.alive:
            self.stopped.append(submission_id)
            self.end(submission_id, "stopped")

    def end(self, submission_id: str, state: JobState, message: str = "") -> None:
        """Let a job end."""
        with self._lock:
            self.known[submission_id] = replace(self.known[submission_id], state=state, message=message)

    def tail(self, submission_id: str) -> Iterator[str]:
        yield from self.output.get(submission_id, [])

    def totals(self) -> Totals:
        self.totals_asked += 1
        return self._totals


def fake_settings(root: Path) -> Settings:
    """Settings of a store in a folder."""
    return Settings(store=str(root), scratch=root / "scratch", jobs_url="http://ray.test", repo=Path.cwd())


def begin_run(root: Path, flow_run_id: str = "run-1") -> tuple[ArtifactStore, RunFile]:
    """The run file of a flow run that is about to execute CHAIN, and its store."""
    store = ArtifactStore(str(root))
    run = RunFile.begin(store, flow_run_id, "tiny", "agevlm/full-recipe")
    run.set_plan(CHAIN)
    return store, run


def publish_plainly(
    ray: FakeRay, fail: frozenset[str] = frozenset(), content: str = ""
) -> Callable[[str, JobSpec], None]:
    """An `on_submit` that makes any step's artifact in a thread: one small file, three rows in, two out."""

    def make(job: str, spec: JobSpec) -> None:
        store = ArtifactStore(spec.locations.root)
        parents = {name: store.require(ref) for name, ref in spec.inputs.items()}
        if spec.key in fail:
            error = f"StepError: {spec.key} was told to fail\n"
            ray.output[job] = [error]
            return ray.end(job, "failed", f"exit code 1, last available logs:\n{error}")
        staging = Staging(store, spec.ref, spec.spec, spec.attempt, parents, spec.git_commit, job)
        staging.write_bytes("report.html" if spec.ref.kind == "report" else "line.txt", (content or spec.key).encode())
        staging.publish(Counts(unit="row", rows_in=3, rows_out=2, rejected={"odd": 1}), {"mean": 0.5})
        return ray.end(job, "succeeded")

    def start(job: str, spec: JobSpec) -> None:
        threading.Thread(target=make, args=(job, spec)).start()

    return start
