"""Watching the state of a flow run at a server that answers, refuses, hangs, or is away."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

from flows.run import own_state
from flows.run.own_state import CancelRequested, OwnState, is_answer


class Client:
    """A stand-in for Prefect's client: `answer` is called for each look."""

    def __init__(self) -> None:
        self.looks = 0
        self.answer: Callable[[], StateType] = lambda: StateType.RUNNING

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def read_flow_run(self, _: object) -> Any:
        self.looks += 1
        return SimpleNamespace(state=SimpleNamespace(type=self.answer()))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[OwnState, Client]]:
    client = Client()
    monkeypatch.setattr(own_state, "get_client", lambda sync_client: client)
    monkeypatch.setattr(own_state, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(own_state, "GRACE_SECONDS", 0.02)
    state = OwnState(str(uuid4()))
    yield state, client
    state.close()


def looks(client: Client, number: int = 2) -> None:
    """Wait for some more looks."""
    target, deadline = client.looks + number, time.monotonic() + 20
    while client.looks < target:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def failing(error: Exception) -> Callable[[], StateType]:
    def fail() -> StateType:
        raise error

    return fail


def status(code: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("", request=httpx.Request("GET", "http://x"), response=httpx.Response(code))


@pytest.mark.parametrize("state", [StateType.CANCELLING, StateType.CANCELLED])
def test_a_cancel_is_seen(watched: tuple[OwnState, Client], state: StateType) -> None:
    own, client = watched
    looks(client)
    own.check()
    client.answer = lambda: state
    assert own._cancelling.wait(20)
    with pytest.raises(CancelRequested):
        own.check()


AWAY = [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), status(503), ValueError("a proxy's page"), OSError()]
ANSWERS = [status(401), status(404), ObjectNotFound(status(404))]


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_a_server_that_is_away_is_waited_for(watched: tuple[OwnState, Client], error: Exception) -> None:
    own, client = watched
    client.answer = failing(error)
    looks(client)
    assert not own.wait_for_server(0.0)
    threading.Timer(0.2, lambda: setattr(client, "answer", lambda: StateType.RUNNING)).start()
    assert own.wait_for_server(20)
    own.check()


@pytest.mark.parametrize("error", ANSWERS, ids=repr)
def test_a_server_that_refuses_is_there_and_the_end_of_a_run_does_not_wait(
    watched: tuple[OwnState, Client], error: Exception
) -> None:
    # The run was deleted, or the secret was changed: nothing would change that.
    own, client = watched
    assert is_answer(error)
    client.answer = failing(error)
    looks(client)
    assert own.wait_for_server(0.0)
