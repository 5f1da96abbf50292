"""Errors of Ray's Jobs API: which requests are repeated, and which answers are final."""

import socket
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flows.run import ray_jobs
from flows.run.ray_jobs import RayAway, RayJobs
from model.errors import StepError


class Server:
    """A stand-in for Ray's client: each call returns the next of its answers, or raises it."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def _next(self, *_: Any, **__: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    get_job_info = submit_job = stop_job = list_jobs = _next


def failure(status: int, text: str = "") -> RuntimeError:
    return RuntimeError(f"Request failed with status code {status}: {text}.")


def details(state: str = "RUNNING") -> SimpleNamespace:
    return SimpleNamespace(
        submission_id="tiny-one-404-r1", status=SimpleNamespace(value=state), metadata={}, message=""
    )


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[RayJobs, Server]]:
    monkeypatch.setattr(ray_jobs.time, "sleep", lambda seconds: None)

    def make(*answers: Any) -> tuple[RayJobs, Server]:
        client, server = RayJobs("http://ray.test"), Server(*answers)
        client._connected = server
        return client, server

    return make


def test_a_ray_in_trouble_is_asked_again(connect: Callable[..., tuple[RayJobs, Server]]) -> None:
    client, server = connect(failure(503), failure(500, "File 'x.py', line 404"), ConnectionError(), details())
    found = client.job("tiny-one-404-r1")
    assert found is not None
    assert found.alive
    assert server.answers == []


def test_only_not_found_means_unknown(connect: Callable[..., tuple[RayJobs, Server]]) -> None:
    client, _ = connect(failure(404, "Job does not exist"))
    assert client.job("tiny-one-r1") is None
    client, _ = connect(failure(400, "tiny-one-404-r1 does not please"))
    with pytest.raises(StepError, match="cannot describe job tiny-one-404-r1"):
        client.job("tiny-one-404-r1")


def test_an_id_that_is_taken_is_no_new_job(connect: Callable[..., tuple[RayJobs, Server]]) -> None:
    client, _ = connect(failure(500, "already exists"), details())
    assert client.submit("tiny-one-404-r1", "true", {}) is False


def test_a_submission_that_ray_could_not_take_is_made_again(connect: Callable[..., tuple[RayJobs, Server]]) -> None:
    client, server = connect(failure(503), failure(404), "tiny-one-404-r1")
    assert client.submit("tiny-one-404-r1", "true", {}) is True
    assert server.answers == []


def test_a_refused_submission_says_why(connect: Callable[..., tuple[RayJobs, Server]]) -> None:
    client, _ = connect(failure(400, "no entrypoint"), failure(404))
    with pytest.raises(StepError, match=r"refused job tiny-one-r1.*no entrypoint"):
        client.submit("tiny-one-r1", "", {})


def test_a_server_error_that_stays_counts_as_a_ray_that_is_away(
    connect: Callable[..., tuple[RayJobs, Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "PATIENCE", -1.0)
    for call in (lambda c: c.jobs(), lambda c: c.job("j"), lambda c: c.submit("j", "true", {})):
        client, _ = connect(*[failure(500, "Traceback:\n  x\nTimeoutError: No agent is there.")] * 2)
        with pytest.raises(RayAway, match=r"TimeoutError: No agent is there"):
            call(client)


def test_a_stop_that_ray_ignores_is_asked_again(connect: Callable[..., tuple[RayJobs, Server]]) -> None:
    # Ray answers False, and no error, while it creates the job's supervisor.
    client, server = connect(False, details("PENDING"), True, details("RUNNING"), True, details("STOPPED"))
    client.stop("tiny-one-404-r1")
    assert server.answers == []


def test_a_job_that_ray_never_stops_is_told_of(
    connect: Callable[..., tuple[RayJobs, Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "STOP_PATIENCE", -1.0)
    client, _ = connect(False, details("PENDING"))
    with pytest.raises(StepError, match="did not stop job tiny-one-404-r1: it does not find the job's supervisor"):
        client.stop("tiny-one-404-r1")
    client, _ = connect(failure(400, "Can only stop submission type jobs"), details())
    with pytest.raises(StepError, match="Can only stop submission type jobs"):
        client.stop("tiny-one-404-r1")
    client, server = connect(True, details())  # Ray took the call, and lets the job end in its own time
    client.stop("tiny-one-404-r1")
    assert server.answers == []


def test_a_job_that_is_over_or_unknown_needs_no_stop(connect: Callable[..., tuple[RayJobs, Server]]) -> None:
    client, server = connect(failure(404), failure(404), False, details("SUCCEEDED"))
    client.stop("tiny-one-404-r1")
    client.stop("tiny-one-404-r1")
    assert server.answers == []


def test_a_server_that_takes_a_request_and_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "PATIENCE", -1.0)
    monkeypatch.setattr(ray_jobs, "REQUEST_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = RayJobs(f"http://127.0.0.1:{server.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(RayAway, match="does not answer"):
            client.jobs()
    assert time.monotonic() - started < 30
