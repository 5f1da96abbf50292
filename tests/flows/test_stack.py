"""The life of a stack, with sleeping processes in the place of servers: up, up again, killed parts, down."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import services, stack
from flows.environment import environment
from flows.home import ray_folder
from flows.processes import end, family, process_of, spawn
from flows.state import ROLES, ProcessRecord, StackError, StackState, load, lock

SLEEP = "import time; time.sleep(600)"
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
time.sleep(600)
"""


class Fake:
    """Stands for the three services: what starts, what is ready, in which order."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.code = dict.fromkeys(ROLES, PARENT)
        self.ready: Callable[[str, StackState], bool] = lambda role, state: True

    def start(self, role: str, state: StackState) -> ProcessRecord:
        self.started.append(role)
        return spawn(role, [sys.executable, "-c", self.code[role]], state)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AGEVLM_STORE", raising=False)
    found = Fake()
    monkeypatch.setattr(services, "start", found.start)
    monkeypatch.setattr(services, "ready", lambda role, state: found.ready(role, state))
    monkeypatch.setattr(services, "make_pool", lambda state: None)
    monkeypatch.setattr(stack, "deploy", lambda state: ["agevlm/full-recipe"])
    monkeypatch.setattr(stack, "crash_lost_runs", lambda state: [])
    yield found
    state = load()
    if state is not None:
        end(family(state), 0)


def pids(state: StackState) -> dict[str, int]:
    return {role: record.pid for role, record in state.processes.items()}


def silent(line: str) -> None:
    """Say nothing."""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_up_starts_all_and_down_ends_all(fake: Fake) -> None:
    state = stack.up(silent)
    assert set(state.processes) == set(ROLES)
    assert load() == state
    assert fake.started[-1] == "worker"  # it hands on the addresses of the others
    wait_for(lambda: len(family(state)) == 6)  # each with its child
    assert {row.state for row in stack.status()} == {"ready"}
    assert stack.down(silent) == 6
    assert family(state) == []
    assert load() is None
    assert stack.down(silent) == 0


def test_up_twice_starts_nothing_twice(fake: Fake) -> None:
    first = stack.up(silent)
    second = stack.up(silent)
    assert second == first
    assert sorted(fake.started) == sorted(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_only_what_died_is_started_again(fake: Fake, role: str) -> None:
    first = stack.up(silent)
    os.kill(first.processes[role].pid, signal.SIGKILL)
    wait_for(lambda: process_of(first.processes[role], first.id) is None)
    assert {row.role: row.state for row in stack.status()}[role] == "dead"
    with pytest.raises(StackError, match="lacks its"):
        stack.require()
    second = stack.up(silent)
    assert second.id == first.id
    assert second.ports == first.ports  # addresses that a shell was told stay right
    assert {r for r in ROLES if pids(second)[r] != pids(first)[r]} == {role}
    stack.require()


def test_an_orphan_is_ended_before_its_parent_is_replaced(fake: Fake) -> None:
    first = stack.up(silent)
    wait_for(lambda: len(family(first)) == 6)
    os.kill(first.processes["ray"].pid, signal.SIGKILL)
    wait_for(lambda: process_of(first.processes["ray"], first.id) is None)
    second = stack.up(silent)
    wait_for(lambda: len(family(second)) == 6)  # not 7: the old child went


def test_the_worker_is_started_anew_when_an_address_changes(fake: Fake) -> None:
    first = stack.up(silent)
    os.kill(first.processes["ray"].pid, signal.SIGKILL)
    wait_for(lambda: process_of(first.processes["ray"], first.id) is None)
    with socket.create_server(("127.0.0.1", first.ports["ray_dashboard"])):
        second = stack.up(silent)
    assert second.ports["ray_dashboard"] != first.ports["ray_dashboard"]
    assert pids(second)["worker"] != pids(first)["worker"]
    assert pids(second)["prefect"] == pids(first)["prefect"]


@pytest.mark.parametrize("everything", [True, False])
def test_down_after_parents_were_killed(fake: Fake, everything: bool) -> None:
    state = stack.up(silent)
    wait_for(lambda: len(family(state)) == 6)
    killed = ROLES if everything else ("ray",)
    for role in killed:
        os.kill(state.processes[role].pid, signal.SIGKILL)
    wait_for(lambda: not any(process_of(state.processes[role], state.id) for role in killed))
    assert stack.down(silent) == (3 if everything else 5)
    assert family(state) == []


def test_a_server_that_dies_at_once_is_an_error_with_its_last_words(fake: Fake) -> None:
    fake.code["prefect"] = "raise SystemExit('no such table')"
    fake.ready = lambda role, state: False
    with pytest.raises(StackError, match=r"Prefect server ended while it started(.|\n)*no such table"):
        stack.up(silent)
    assert load() is None  # nothing is left behind


def test_a_part_that_never_answers_is_given_up(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stack.START_SECONDS, "worker", 0.3)
    fake.ready = lambda role, state: role != "worker"
    recorded: list[StackState] = []

    def say(line: str) -> None:
        state = load()
        if state is not None:
            recorded.append(state)

    with pytest.raises(StackError, match="did not answer within"):
        stack.up(say)
    assert family(recorded[-1]) == []


def test_ray_gets_further_attempts(fake: Fake) -> None:
    fake.code["ray"] = "raise SystemExit('timed out during startup')"

    def ready(role: str, state: StackState) -> bool:
        if fake.started.count("ray") == 4:
            return True
        if fake.started.count("ray") == 3:
            fake.code["ray"] = SLEEP
        return role != "ray"

    fake.ready = ready
    stack.up(silent)
    assert fake.started.count("ray") == 4


def test_an_interrupt_while_starting_ends_what_was_started(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[StackState] = []

    def interrupted(state: StackState) -> list[str]:
        states.append(state)
        raise KeyboardInterrupt

    monkeypatch.setattr(stack, "deploy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stack.up(silent)
    assert family(states[0]) == []
    assert load() is None


def test_a_failed_repair_leaves_the_living_alone(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stack.up(silent)
    os.kill(first.processes["worker"].pid, signal.SIGKILL)
    wait_for(lambda: process_of(first.processes["worker"], first.id) is None)
    monkeypatch.setitem(stack.START_SECONDS, "worker", 0.3)
    fake.ready = lambda role, state: role != "worker"
    with pytest.raises(StackError):
        stack.up(silent)
    assert process_of(first.processes["prefect"], first.id) is not None
    assert process_of(first.processes["ray"], first.id) is not None


def test_a_living_stack_is_not_bent_to_another_store(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stack.up(silent)
    assert first.store == str(tmp_path / "home" / "artifacts")
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path / "elsewhere"))
    assert environment()["AGEVLM_STORE"] == first.store  # what its flows use
    with pytest.raises(StackError, match=r"works on the store .*artifacts, but here the store is .*elsewhere"):
        stack.up(silent)
    stack.down(silent)
    assert stack.up(silent).store == str(tmp_path / "elsewhere")


def test_up_and_down_do_not_mix(fake: Fake) -> None:
    with lock(), pytest.raises(StackError, match="at work"):
        stack.up(silent)


def test_old_ray_sessions_lose_all_but_their_logs(fake: Fake) -> None:
    folder = ray_folder()
    for day in range(1, 6):
        for part in ("logs", "sockets"):
            (folder / f"session_2026-01-0{day}_x" / part).mkdir(parents=True)
            (folder / f"session_2026-01-0{day}_x" / part / "file").write_text("x")
    (folder / "session_latest").symlink_to(folder / "session_2026-01-05_x")
    (folder / "other").mkdir()
    stack.up(silent)
    left = {str(path.relative_to(folder)) for path in folder.rglob("file")}
    assert left == {f"session_2026-01-0{day}_x/logs/file" for day in (3, 4, 5)}
    assert (folder / "other").is_dir()
