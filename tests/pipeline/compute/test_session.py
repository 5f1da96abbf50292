"""Connecting to Ray, without starting it: joining a job's cluster, and retries after a slow start."""

import pytest
import ray

from model.errors import StepError
from pipeline.compute import session as ray_session


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace Ray's functions; the list records their calls."""
    for name in ("RAY_ADDRESS", ray_session.JOB_CONFIG):
        monkeypatch.delenv(name, raising=False)
    calls: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: calls.append(f"init {options.get('address', 'job')}"))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    return calls


def test_a_cluster_is_joined_only_inside_a_job(quiet: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ray_session.in_job()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert not ray_session.in_job(), "an address alone may be another user's cluster"
    assert ray_session.connect()
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert ray_session.in_job()
    assert not ray_session.connect()
    with ray_session.session():
        pass
    assert quiet == ["init local", "init job", "init job"]


def test_a_local_session_ends_with_its_block(quiet: list[str]) -> None:
    with pytest.raises(RuntimeError, match="inside"), ray_session.session():
        raise RuntimeError("inside")
    assert quiet == ["init local", "shutdown"]


def test_a_slow_start_is_retried_and_then_an_error(quiet: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [Exception(f"The current node {ray_session.SLOW_START}")] * 2

    def start(cpus: int | None, gpus: int | None) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(ray_session, "_start", start)
    assert ray_session.connect()
    assert quiet == ["shutdown", "shutdown"]
    failures.extend([Exception(f"The current node {ray_session.SLOW_START}")] * 9)
    with pytest.raises(StepError, match="cannot be started"):
        ray_session.connect()
    assert len(failures) == 9 - ray_session.START_ATTEMPTS
    failures[:] = [ValueError("no such option")]
    with pytest.raises(StepError, match="no such option"):
        ray_session.connect()
    assert failures == []
