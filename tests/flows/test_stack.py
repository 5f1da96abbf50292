"""The life of a stack, with sleeping processes in the place of servers: up, up again, killed parts, down."""

import json
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
from flows.home import ROOT, ray_folder
from flows.processes import family, process_of, spawn
from flows.state import ROLES, ProcessRecord, StackError, StackState, forget, load, lock, save, state_file

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
        self.reaped = 0

    def start(self, role: str, state: StackState) -> ProcessRecord:
        self.started.append(role)
        return spawn(role, [sys.executable, "-c", self.code[role]], state)

    def reap(self, state: StackState) -> list[str]:
        assert process_of_role(state, "worker") is None, "a worker may just be starting a run"
        self.reaped += 1
        return []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AGEVLM_STORE", raising=False)
    found = Fake()
    monkeypatch.setattr(services, "start", found.start)
    monkeypatch.setattr(services, "ready", lambda role, state: found.ready(role, state))
    monkeypatch.setattr(services, "make_pool", lambda state: None)
    monkeypatch.setattr(stack, "deploy", lambda state: ["agevlm/full-recipe"])
    monkeypatch.setattr(stack, "crash_lost_runs", found.reap)
    yield found
    stack.down(silent)


def process_of_role(state: StackState, role: str) -> object:
    record = state.processes.get(role)
    return process_of(record, state.id) if record else None


def killed(state: StackState, *roles: str) -> None:
    """Kill processes, but not their children."""
    for role in roles:
        os.kill(state.processes[role].pid, signal.SIGKILL)
    wait_for(lambda: not any(process_of_role(state, role) for role in roles))


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
    killed(first, role)
    assert {row.role: row.state for row in stack.status()}[role] == "dead"
    with pytest.raises(StackError, match="lacks its"):
        stack.require()
    second = stack.up(silent)
    assert second.id == first.id
    assert second.ports == first.ports  # addresses that a shell was told stay right
    assert {r for r in ROLES if pids(second)[r] != pids(first)[r]} == {role}
    assert fake.reaped == 1 + (role == "worker"), (
        "whatever the worker's runs were, they are over or their process lives"
    )
    stack.require()


def test_an_orphan_is_ended_before_its_parent_is_replaced(fake: Fake) -> None:
    first = stack.up(silent)
    wait_for(lambda: len(family(first)) == 6)
    killed(first, "ray")
    second = stack.up(silent)
    wait_for(lambda: len(family(second)) == 6)  # not 7: the old child went


def test_the_worker_is_started_anew_when_an_address_changes(fake: Fake) -> None:
    first = stack.up(silent)
    killed(first, "ray")
    with socket.create_server(("127.0.0.1", first.ports["ray_dashboard"])):
        second = stack.up(silent)
    assert second.ports["ray_dashboard"] != first.ports["ray_dashboard"]
    assert pids(second)["worker"] != pids(first)["worker"]
    assert pids(second)["prefect"] == pids(first)["prefect"]


def test_a_worker_that_was_started_anew_is_ended_if_that_fails(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stack.up(silent)
    killed(first, "ray")
    monkeypatch.setitem(stack.START_SECONDS, "worker", 0.3)
    fake.ready = lambda role, state: role != "worker"
    with socket.create_server(("127.0.0.1", first.ports["ray_dashboard"])), pytest.raises(StackError):
        stack.up(silent)
    now = load()
    assert now is not None
    assert {role for role in ROLES if process_of_role(now, role)} == {"prefect"}
    assert pids(now)["worker"] != pids(first)["worker"]


def test_a_prefect_whose_port_was_taken_meanwhile_gets_another(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a worker knows the old one."""
    first = stack.up(silent)
    killed(first, "prefect")
    port = first.ports["prefect"]
    fake.code["prefect"] = f"import socket; socket.create_server(('127.0.0.1', {port}))"
    fake.ready = lambda role, state: role != "prefect" or state.ports["prefect"] != port
    taken: list[socket.socket] = []

    def late(role: str, state: StackState) -> ProcessRecord:
        if role == "prefect" and not taken:
            taken.append(socket.create_server(("127.0.0.1", port)))
        elif role == "prefect":
            fake.code["prefect"] = SLEEP
        return fake.start(role, state)

    monkeypatch.setattr(services, "start", late)
    said: list[str] = []
    try:
        second = stack.up(said.append)
    finally:
        taken[0].close()
    assert second.ports["prefect"] != port
    assert pids(second)["worker"] != pids(first)["worker"]
    assert pids(second)["ray"] == pids(first)["ray"]
    assert any("Prefect server did not start, attempt 2 of 2" in line for line in said)


@pytest.mark.parametrize("everything", [True, False])
def test_down_after_parents_were_killed(fake: Fake, everything: bool) -> None:
    state = stack.up(silent)
    wait_for(lambda: len(family(state)) == 6)
    killed(state, *(ROLES if everything else ("ray",)))
    assert stack.down(silent) == (3 if everything else 5)
    assert family(state) == []


def test_a_stack_whose_record_is_lost_is_not_doubled_and_can_be_ended(fake: Fake) -> None:
    state = stack.up(silent)
    wait_for(lambda: len(family(state)) == 6)
    forget()
    for command in (lambda: stack.up(silent), stack.status):
        with pytest.raises(StackError, match="that nothing records; end them with 'agevlm down'"):
            command()
    assert len(family(state)) == 6
    assert stack.down(silent) == 6
    assert family(state) == []
    assert stack.status() == []


def test_a_stack_beside_a_recorded_one_is_ended_too(fake: Fake) -> None:
    first = stack.up(silent)
    save(StackState(id="another"))
    with pytest.raises(StackError, match="nothing records"):
        stack.up(silent)
    assert stack.down(silent) >= 3
    assert family(first) == []


def test_a_stack_of_another_home_is_left_alone(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = stack.up(silent)
    with monkeypatch.context() as patch:
        patch.setenv("AGEVLM_HOME", str(tmp_path / "other"))
        assert stack.status() == []
        assert stack.down(silent) == 0
    assert {role for role in ROLES if process_of_role(state, role)} == set(ROLES)


@pytest.mark.parametrize("content", ["", "{", '{"id": 7}'])
def test_down_needs_no_sound_record(content: str, fake: Fake) -> None:
    state = stack.up(silent)
    state_file().write_text(content)
    for command in (lambda: stack.up(silent), stack.status, stack.require):
        with pytest.raises(StackError, match=r"is damaged(.|\n)*agevlm down"):
            command()
    said: list[str] = []
    assert stack.down(said.append) >= 3
    assert "is damaged" in said[0]
    assert family(state) == []
    assert not state_file().exists()


def test_the_record_of_another_version_is_understood(fake: Fake) -> None:
    state = stack.up(silent)
    state_file().write_text(json.dumps({**state.model_dump(mode="json"), "colour": "red"}))
    assert {row.state for row in stack.status()} == {"ready"}
    assert stack.up(silent) == state
    assert stack.down(silent) >= 3


def test_a_living_stack_of_another_project_is_not_used(fake: Fake) -> None:
    theirs = stack.up(silent).model_copy(update={"root": "/their/project"})
    save(theirs)
    for command in (lambda: stack.up(silent), stack.require):
        with pytest.raises(StackError, match=r"of the project in /their/project, but this is .*unset AGEVLM_HOME"):
            command()
    assert {row.state for row in stack.status()} == {"ready"}
    killed(theirs, *ROLES)
    assert stack.up(silent).root == str(ROOT)  # nothing lives any more that imports theirs
    stack.require()


def test_ray_hurries_and_then_has_the_priority_that_up_was_given(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(stack, "own_niceness", lambda: 7)
    monkeypatch.setattr(stack, "set_priority", lambda processes, niceness: given.append(niceness))
    stack.up(silent)
    assert given == [-3, 7]


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
    killed(first, "worker")
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
