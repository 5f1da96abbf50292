"""Errors of Ray's Jobs API: which requests are repeated, and which answers are final."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flows.run import ray_jobs
from flows.run.ray_jobs import RayJobs
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

    get_job_info = submit_job = stop_job = _next


def failure(status: int, text: str = "") -> RuntimeError:
    return RuntimeError(f"Request failed with status code {status}: {text}.")


def details(state: str = "RUNNING") -> SimpleNamespace:
    return SimpleNamespace(
        submission_id="tiny-one-404-r1", status=SimpleNamespace(value=state), metadata={}, message=""
    )


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[RayJobs, Server]]:
    monkeypatch.setattr(ray_jobs, "PATIENCE", 0.0)
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
