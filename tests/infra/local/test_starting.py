"""The start of processes: attempts, waits, priorities, and errors with the end of a log."""

import socket
from dataclasses import replace

import pytest

from infra.local import starting
from infra.local.folders import Folders
from infra.local.processes import family, process_of
from infra.local.roles.table import ROLES
from infra.local.stack import LocalStack
from infra.local.stack_file import ProcessRecord, StackError, StackState
from tests.infra.local.fixtures_fake_stack import (
    SLEEP,
    FakeServices,
    killed,
    pids,
    silent,
)


def test_ray_hurries_and_then_has_the_priority_that_up_was_given(
    local: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(starting, "own_niceness", lambda: 7)
    monkeypatch.setattr(starting, "set_priority", lambda processes, niceness: given.append(niceness))
    local.up(silent)
    assert given == [-3, 7]
    local.up(silent)
    assert given == [-3, 7]
    monkeypatch.setattr(starting, "niceness_of", lambda process: -3)  # an 'up' was killed while Ray started
    local.up(silent)
    assert given == [-3, 7, 7]


def test_a_server_that_dies_at_once_is_an_error_with_the_end_of_its_log(local: LocalStack, fake: FakeServices) -> None:
    fake.code["prefect"] = "raise SystemExit('no such table')"
    fake.ready = lambda role, state: False
    with pytest.raises(StackError, match=r"Prefect server ended during its start(.|\n)*no such table"):
        local.up(silent)
    assert local.file.load() is None  # nothing is left behind


def test_a_part_that_never_answers_is_given_up(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROLES, "worker", replace(ROLES["worker"], start_seconds=0.3))
    fake.ready = lambda role, state: role != "worker"
    recorded: list[StackState] = []

    def say(line: str) -> None:
        state = local.file.load()
        if state is not None:
            recorded.append(state)

    with pytest.raises(StackError, match="did not answer within"):
        local.up(say)
    assert family(recorded[-1]) == []


def test_a_ray_that_loses_a_process_during_its_start_is_started_again(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "BROKEN_SECONDS", 0.2)
    looks: list[str] = []

    def ready(role: str, state: StackState) -> bool:
        if role != "ray" or fake.started.count("ray") == 2:
            return True
        looks.append(role)
        if len(looks) == 2:  # it was whole at the first look
            fake.broken.add("ray")
        return False

    fake.ready = ready
    said: list[str] = []
    local.up(said.append)
    assert fake.started.count("ray") == 2
    assert any("lost a process that it needs during its start" in line for line in said)


def test_ray_gets_further_attempts(local: LocalStack, fake: FakeServices) -> None:
    fake.code["ray"] = "raise SystemExit('timed out during startup')"

    def ready(role: str, state: StackState) -> bool:
        if fake.started.count("ray") == 4:
            return True
        if fake.started.count("ray") == 3:
            fake.code["ray"] = SLEEP
        return role != "ray"

    fake.ready = ready
    local.up(silent)
    assert fake.started.count("ray") == 4


def test_an_interrupt_while_starting_ends_what_was_started(local: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[StackState] = []

    def interrupted(folders: Folders, state: StackState) -> list[str]:
        states.append(state)
        raise KeyboardInterrupt

    monkeypatch.setattr(starting, "deploy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        local.up(silent)
    assert family(states[0]) == []
    assert local.file.load() is None


def test_a_failed_repair_leaves_the_living_alone(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local.up(silent)
    killed(first, "worker")
    monkeypatch.setitem(ROLES, "worker", replace(ROLES["worker"], start_seconds=0.3))
    fake.ready = lambda role, state: role != "worker"
    with pytest.raises(StackError):
        local.up(silent)
    assert process_of(first.processes["prefect"], first.id) is not None
    assert process_of(first.processes["ray"], first.id) is not None


def test_what_is_not_installed_is_not_started(local: LocalStack, fake: FakeServices) -> None:
    fake.absent = {"prometheus", "grafana"}
    state = local.up(silent)
    assert set(state.processes) == set(ROLES) - fake.absent
    assert not fake.absent & state.ports.keys()  # so nobody is told of them
    assert {row.role: row.state for row in local.status() if row.state != "ready"} == {
        "prometheus": "not installed",
        "grafana": "not installed",
    }
    local.require()
    fake.absent = set()  # installed meanwhile: the worker's flows are told of it
    second = local.up(silent)
    assert set(second.processes) == set(ROLES)
    assert pids(second)["worker"] != pids(state)["worker"]


def test_up_goes_on_without_an_optional_part_that_fails(local: LocalStack, fake: FakeServices) -> None:
    fake.code["prometheus"] = "print('no space for the data'); raise SystemExit(1)"
    fake.ready = lambda role, state: role != "prometheus"
    said: list[str] = []
    state = local.up(said.append)
    assert set(state.processes) == set(ROLES) - {"prometheus"}
    assert "prometheus" not in state.ports
    assert any("Prometheus does not run" in line and "no space for the data" in line for line in said)
    (row,) = [row for row in local.status() if row.state != "ready"]
    assert (row.role, row.state, row.needed) == ("prometheus", "not started", False)
    local.require()


def test_a_prefect_whose_port_was_taken_meanwhile_gets_another(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is restarted, because it knows the old address."""
    first = local.up(silent)
    killed(first, "prefect")
    port = first.ports["prefect"]
    fake.code["prefect"] = f"import socket; socket.create_server(('127.0.0.1', {port}))"
    fake.ready = lambda role, state: role != "prefect" or state.ports["prefect"] != port
    taken: list[socket.socket] = []

    def late(role: str, folders: Folders, state: StackState) -> ProcessRecord:
        if role == "prefect" and not taken:
            taken.append(socket.create_server(("127.0.0.1", port)))
        elif role == "prefect":
            fake.code["prefect"] = SLEEP
        return start(role, folders, state)

    start = fake.start
    monkeypatch.setattr(fake, "start", late)
    said: list[str] = []
    try:
        second = local.up(said.append)
    finally:
        taken[0].close()
    assert second.ports["prefect"] != port
    assert pids(second)["worker"] != pids(first)["worker"]
    assert pids(second)["ray"] == pids(first)["ray"]
    assert any("Prefect server did not start, attempt 2 of 2" in line for line in said)
