"""The client of Ray's Jobs API: list, submit, stop and follow jobs over HTTP, and the size of the cluster.

Ray's client is imported inside functions: a run in which every step is cached never needs it.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import psutil

from flows.run.settings import REMEDY, Totals
from model.errors import StepError
from pipeline.compute.resources import usable_cpus

JobState = Literal["pending", "running", "succeeded", "failed", "stopped"]
ALIVE: frozenset[str] = frozenset({"pending", "running"})
PATIENCE = 60.0
"""Seconds for which an unreachable Ray is asked again before a step fails."""
STOP_PATIENCE = 8.0
"""The same for stopping a job: Prefect kills a cancelled flow process after 30 s."""
STOP_PAUSE = 0.5
REQUEST_SECONDS = 30.0
"""Longest time for one request. Ray's own client waits forever for a server that hangs or whose machine is gone."""
STATUS = re.compile(r"\bstatus code (\d{3})\b")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Job:
    """A job as the Jobs API describes it."""

    id: str
    state: JobState
    metadata: dict[str, str] = field(default_factory=dict)
    message: str = ""
    started: float = 0.0
    """When Ray was asked for it, in milliseconds since 1970."""

    @property
    def alive(self) -> bool:
        """True if it runs or will run."""
        return self.state in ALIVE


class RayAway(StepError):
    """Ray did not answer for a while."""


class JobClient(Protocol):
    """The calls to Ray that a flow run makes. Every method raises RayAway if Ray cannot be reached."""

    def jobs(self) -> list[Job]:
        """Every submitted job that the cluster remembers."""

    def job(self, submission_id: str) -> Job | None:
        """One job, or None if the cluster does not know it."""

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        """Start a job; False if a job of that id exists already."""

    def stop(self, submission_id: str) -> None:
        """Stop a job and wait a few seconds for its end; nothing happens if it is over."""

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

            logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it logs the end of each log

            class Client(JobSubmissionClient):  # type: ignore[misc,unused-ignore]
                def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
                    return super()._do_request(method, endpoint, timeout=REQUEST_SECONDS, **options)

            self._connected = Client(self._url)
        return self._connected

    def _ask(self, question: Callable[[Any], Value], patience: float | None = None) -> Value:
        """Ask Ray; ask again while it does not answer or answers with a server error (5xx).

        Raises RayAway after `patience` seconds (None: PATIENCE). Other RuntimeErrors of Ray's client go to the caller.
        """
        from ray.exceptions import AuthenticationError
        from requests.exceptions import RequestException

        started, pause, limit = time.monotonic(), 0.2, PATIENCE if patience is None else patience
        while True:
            late = time.monotonic() - started > limit
            try:
                return question(self._client())
            except AuthenticationError as error:
                raise StepError(f"Ray at {self._url} refuses our token: {REMEDY}") from error
            except (ConnectionError, RequestException, TimeoutError) as error:
                if late:
                    raise RayAway(f"Ray at {self._url} does not answer: {REMEDY}") from error
            except RuntimeError as error:
                if (_status(error) or 0) < 500:
                    raise
                if late:
                    raise RayAway(f"Ray at {self._url} answers with an error: {_reason(error)}") from error
            time.sleep(pause)
            pause = min(2 * pause, 3.0)

    def jobs(self) -> list[Job]:
        """Every submitted job that the cluster remembers."""
        return [_job(item) for item in self._ask(lambda client: client.list_jobs()) if item.submission_id]

    def job(self, submission_id: str) -> Job | None:
        """One job, or None if the cluster does not know it."""
        return self._job(submission_id, None)

    def _job(self, submission_id: str, patience: float | None) -> Job | None:
        try:
            return _job(self._ask(lambda client: client.get_job_info(submission_id), patience))
        except RuntimeError as error:
            if _status(error) == 404:
                return None
            raise StepError(f"Ray cannot describe job {submission_id}: {_first_line(error)}") from error

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        """Start a job; False if a job of that id exists already: perhaps this one, if Ray's answer was lost."""

        def start(client: Any) -> bool:
            try:
                client.submit_job(entrypoint=entrypoint, submission_id=submission_id, metadata=metadata)
            except RuntimeError:
                if self.job(submission_id) is None:  # Ray answers 500 both for a taken id and for its own errors
                    raise
                return False
            return True

        try:
            return self._ask(start)
        except RuntimeError as error:
            raise StepError(f"Ray refused job {submission_id}: {_first_line(error)}") from error

    def stop(self, submission_id: str) -> None:
        """Stop a job and wait until it is over, or until Ray has had STOP_PATIENCE for it.

        Ray ignores the call for a job whose supervisor it is just creating, and does not say so as an error: it is
        asked again. Raises StepError if it never took the call.
        """
        deadline = time.monotonic() + STOP_PATIENCE
        while True:
            refusal = "it does not find the job's supervisor"
            try:
                taken = self._ask(lambda client: client.stop_job(submission_id), STOP_PATIENCE)
            except RuntimeError as error:  # 404: it does not know the job
                taken, refusal = False, _reason(error)
            job = self._job(submission_id, STOP_PATIENCE)
            if job is None or not job.alive:
                return
            if time.monotonic() > deadline:
                if not taken:
                    raise StepError(f"Ray did not stop job {submission_id}: {refusal}")
                return  # the job may take longer to end: RAY_JOB_STOP_WAIT_TIME_S
            time.sleep(STOP_PAUSE)

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

        This machine's node counts with the CPUs that it really has: the local stack declares more to Ray, so that the
        helper actors of Ray Data and Ray Train fit, but two heavy steps at once would slow each other down.
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
    started = float(getattr(details, "start_time", None) or 0)
    return Job(details.submission_id, state, dict(details.metadata or {}), details.message or "", started)


def _status(error: RuntimeError) -> int | None:
    """The HTTP status in the text of an error of Ray's client; None if there is none."""
    found = STATUS.search(str(error))
    return int(found[1]) if found else None


def _reason(error: BaseException) -> str:
    """The last line of an error: Ray's server errors are tracebacks, whose last line is the reason."""
    return str(error).strip().rstrip(".").strip().split("\n")[-1][:300]


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
