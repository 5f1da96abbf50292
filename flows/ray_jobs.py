"""One step as one Ray job: naming, joining a job that is alive, submitting, and the client that does it over HTTP.

Ray's client is imported inside functions: a run in which every step is cached never needs it.
"""

import asyncio
import logging
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import psutil

from flows.processes import usable_cpus
from flows.settings import REMEDY, Settings, Totals
from model.errors import StepError
from pipeline.artifacts.spec import short
from pipeline.job import JobSpec

JobState = Literal["pending", "running", "succeeded", "failed", "stopped"]
ALIVE: frozenset[str] = frozenset({"pending", "running"})
PATIENCE = 60.0
"""Seconds for which an unreachable Ray is asked again before a step fails."""
STOP_PATIENCE = 8.0
"""The same for stopping a job: Prefect kills a cancelled flow process after 30 s."""
STATUS = re.compile(r"\bstatus code (\d{3})\b")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Job:
    """What the Jobs API says of a job."""

    id: str
    state: JobState
    metadata: dict[str, str] = field(default_factory=dict)
    message: str = ""

    @property
    def alive(self) -> bool:
        """Whether it runs or will run."""
        return self.state in ALIVE


class JobClient(Protocol):
    """What the walker needs of Ray. Every method raises StepError if Ray cannot be reached."""

    def jobs(self) -> list[Job]:
        """Every submitted job that the cluster remembers."""

    def job(self, submission_id: str) -> Job | None:
        """One job, or None if the cluster does not know it."""

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        """Start a job; False if a job of that id exists already."""

    def stop(self, submission_id: str) -> None:
        """Ask a job to stop; nothing happens if it is over."""

    def tail(self, submission_id: str) -> Iterator[str]:
        """The job's output from its beginning, in pieces, until it ends."""

    def totals(self) -> Totals:
        """CPUs and GPUs of the whole cluster."""


class RayJobs:
    """The Jobs API of one cluster. The process that uses it never becomes a Ray driver."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connected: Any = None

    def _client(self) -> Any:
        if self._connected is None:
            from ray.job_submission import JobSubmissionClient

            logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it tells of each log's end
            self._connected = JobSubmissionClient(self._url)
        return self._connected

    def _ask(self, question: Callable[[Any], Value], patience: float = PATIENCE) -> Value:
        """Ask Ray, and again for a while if it does not answer or answers that it cannot just now.

        A RuntimeError that is Ray's considered answer goes to the caller.
        """
        from ray.exceptions import AuthenticationError
        from requests.exceptions import RequestException

        started, pause = time.monotonic(), 0.2
        while True:
            late = time.monotonic() - started > patience
            try:
                return question(self._client())
            except AuthenticationError as error:
                raise StepError(f"Ray at {self._url} refuses our token: {REMEDY}") from error
            except (ConnectionError, RequestException, TimeoutError) as error:
                if late:
                    raise StepError(f"Ray at {self._url} does not answer: {REMEDY}") from error
            except RuntimeError as error:
                if late or (_status(error) or 0) < 500:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 3.0)

    def jobs(self) -> list[Job]:
        """Every submitted job that the cluster remembers."""
        return [_job(item) for item in self._ask(lambda client: client.list_jobs()) if item.submission_id]

    def job(self, submission_id: str) -> Job | None:
        """One job, or None if the cluster does not know it."""
        try:
            return _job(self._ask(lambda client: client.get_job_info(submission_id)))
        except RuntimeError as error:
            if _status(error) == 404:
                return None
            raise StepError(f"Ray cannot describe job {submission_id}: {_first_line(error)}") from error

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        """Start a job; False if a job of that id exists already, which may be ours if an answer was lost."""

        def start(client: Any) -> bool:
            try:
                client.submit_job(entrypoint=entrypoint, submission_id=submission_id, metadata=metadata)
            except RuntimeError:
                if self.job(submission_id) is None:  # an id that is taken and a Ray in trouble both answer 500
                    raise
                return False
            return True

        try:
            return self._ask(start)
        except RuntimeError as error:
            raise StepError(f"Ray refused job {submission_id}: {_first_line(error)}") from error

    def stop(self, submission_id: str) -> None:
        """Ask a job to stop; nothing happens if it is over."""
        try:
            self._ask(lambda client: client.stop_job(submission_id), STOP_PATIENCE)
        except RuntimeError as error:
            job = self.job(submission_id)
            if job is not None and job.alive:
                raise StepError(f"Ray did not stop job {submission_id}: {_first_line(error)}") from error

    def tail(self, submission_id: str) -> Iterator[str]:
        """The job's output from its beginning, in pieces, until it ends."""
        loop = asyncio.new_event_loop()
        pieces: AsyncIterator[str] = self._ask(lambda client: client.tail_job_logs(submission_id))
        try:
            while True:
                try:
                    yield loop.run_until_complete(anext(pieces))
                except StopAsyncIteration:
                    return
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def totals(self) -> Totals:
        """CPUs and GPUs of the whole cluster.

        A node that is this machine counts with the CPUs it really has: a laptop's Ray may be told of more, so that
        Ray Data and Ray Train find room for their helpers, but two heavy steps at once would only slow each other down.
        """
        from ray.util.state import list_nodes
        from ray.util.state.exception import RayStateApiException

        try:
            nodes = self._ask(lambda _: list_nodes(address=self._url, detail=True, filters=[("state", "=", "ALIVE")]))
        except RayStateApiException as error:
            raise StepError(f"Ray at {self._url} does not list its nodes: {_first_line(error)}") from error
        here = own_addresses()
        cpus = gpus = 0.0
        for node in nodes:
            resources = node.resources_total or {}
            declared = float(resources.get("CPU", 0))
            cpus += min(declared, usable_cpus()) if node.node_ip in here else declared
            gpus += float(resources.get("GPU", 0))
        return Totals(cpus=cpus, gpus=gpus)


def own_addresses() -> set[str]:
    """The IP addresses of this machine."""
    return {address.address for interface in psutil.net_if_addrs().values() for address in interface}


def _job(details: Any) -> Job:
    state: JobState = details.status.value.lower()
    return Job(details.submission_id, state, dict(details.metadata or {}), details.message or "")


def _status(error: RuntimeError) -> int | None:
    """The HTTP status that Ray's client tells of in its error's text; None if it tells of none."""
    found = STATUS.search(str(error))
    return int(found[1]) if found else None


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


# -- one step as one job


@dataclass(frozen=True)
class Launch:
    """What is common to the jobs of one flow run."""

    recipe: str
    flow_run_id: str
    settings: Settings
    module: str = "pipeline"
    """The module that a job runs as `python -m MODULE run SPEC.json`; tests put their own in its place."""


def submission_prefix(recipe: str, job: JobSpec) -> str:
    """The id of a step's jobs up to the number of the try."""
    return f"{recipe}-{job.key}-{short(job.ref.id)}-r"


def entrypoint(launch: Launch, job: JobSpec, submission_id: str, spec: Path) -> str:
    """The shell command of a job: this interpreter, so that a job has the flow's own libraries.

    Its environment is part of the command and not Ray's runtime_env: with that, no worker which Ray keeps ready can
    be used, and each job takes several CPU seconds longer to start. Workers find the project through the driver.
    """
    threads = str(job.resources.threads)
    env = {
        **launch.settings.passed_on,
        "PYTHONPATH": str(launch.settings.repo),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "AGEVLM_SUBMISSION_ID": submission_id,
    }
    given = [f"{name}={value}" for name, value in env.items()]
    return shlex.join(["env", *given, sys.executable, "-m", launch.module, "run", str(spec)])


def join_or_submit(client: JobClient, launch: Launch, job: JobSpec) -> tuple[str, bool]:
    """Join the job that is making this artifact, or start one. Returns its submission id and whether it was joined.

    Two flow runs may do this at once: Ray refuses the second job of an id, and the loser looks again.
    """
    prefix = submission_prefix(launch.recipe, job)
    identity = {"artifact": job.ref.id, "store": job.site.root}
    for _ in range(10):
        known = client.jobs()
        for other in known:
            if other.alive and identity.items() <= other.metadata.items():
                return other.id, True
        tries = [int(other.id[len(prefix) :]) for other in known if _is_try(other.id, prefix)]
        submission_id = f"{prefix}{max(tries, default=0) + 1}"
        spec = launch.settings.jobs_folder / f"{submission_id}.json"
        spec.parent.mkdir(parents=True, exist_ok=True)
        partial = spec.with_name(f"{spec.name}.{os.getpid()}.{threading.get_ident()}.part")
        partial.write_text(job.model_dump_json(indent=1), encoding="utf-8")
        os.replace(partial, spec)
        metadata = {**identity, "step": job.key, "kind": job.ref.kind, "flow_run_id": launch.flow_run_id}
        if client.submit(submission_id, entrypoint(launch, job, submission_id, spec), metadata):
            return submission_id, False
    raise StepError(f"{job.key}: other flow runs keep starting jobs named {prefix}*; run again when they are over")


def _is_try(submission_id: str, prefix: str) -> bool:
    return submission_id.startswith(prefix) and submission_id[len(prefix) :].isdigit()
