"""The life of a stack, with sleeping processes in the place of servers: up, up again, killed parts, down."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from infra.local import starting
from infra.local.folders import Folders
from infra.local.lost_runs import CloseRun
from infra.local.processes import family, process_of, spawn
from infra.local.roles.table import ROLES
from infra.local.stack import LocalStack
from infra.local.stack_file import ProcessRecord, StackError, StackFile, StackState
from infra.local.web import Server
from pipeline.artifacts.atomic import write_text
from tests.infra.local.fixtures_home import wait_for

SLEEP = "import time; time.sleep(600)"
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
time.sleep(600)
"""


class FakeServices:
    """Stands for the three services: starts their processes, and says which of them are ready."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.code = dict.fromkeys(ROLES, PARENT)
        self.ready: Callable[[str, StackState], bool] = lambda role, state: True
        self.broken: set[str] = set()
        self.absent: set[str] = set()
        self.worker_lives: Callable[[], bool] = lambda: False
        self.searched = 0

    def start(self, role: str, folders: Folders, state: StackState) -> ProcessRecord:
        self.started.append(role)
        self.broken.discard(role)
        return spawn(folders, role, [sys.executable, "-c", self.code[role]], state)

    def start_role(self, role: str, folders: Folders, state: StackState) -> ProcessRecord:
        return self.start(role, folders, state)

    def is_ready(self, role: str, folders: Folders, state: StackState) -> bool:
        return self.ready(role, state)

    def is_wanted(self, role: str) -> bool:
        return role not in self.absent

    def is_broken(self, role: str, state: StackState) -> bool:
        return role in self.broken

    def crash_lost_runs(self, api: Server, store: str, close_run: CloseRun) -> list[str]:
        assert not self.worker_lives(), "a worker may just be starting a run"
        self.searched += 1
        return []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeServices:
    found = FakeServices()
    for name, role in ROLES.items():
        fake_role = replace(
            role,
            start=partial(found.start_role, name),
            ready=partial(found.is_ready, name),
            broken=partial(found.is_broken, name),
            wanted=partial(found.is_wanted, name),
        )
        monkeypatch.setitem(ROLES, name, fake_role)
    monkeypatch.setattr(starting, "make_pool", lambda api: None)
    monkeypatch.setattr(starting, "deploy", lambda folders, state: ["agevlm/full-recipe"])
    monkeypatch.setattr(starting, "cancel_lost_runs", lambda api, store, end_cancel: [])
    monkeypatch.setattr(starting, "crash_lost_runs", found.crash_lost_runs)
    return found


def stack_in(folders: Folders) -> LocalStack:
    return LocalStack(
        folders, StackFile(folders.state_file, write_text), lambda store, run, message: "", lambda store, run: ""
    )


@pytest.fixture
def local(fake: FakeServices, folders: Folders) -> Iterator[LocalStack]:
    found = stack_in(folders)
    fake.worker_lives = lambda: process_of_role(found.file.load() or StackState(id="x"), "worker") is not None
    yield found
    found.down(silent)


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


def test_up_starts_all_and_down_ends_all(local: LocalStack, fake: FakeServices) -> None:
    state = local.up(silent)
    assert set(state.processes) == set(ROLES)
    assert local.file.load() == state
    assert fake.started[-1] == "worker"  # it gives the addresses of the others to its flows
    wait_for(lambda: len(family(state)) == 2 * len(ROLES))  # each with its child
    assert {row.state for row in local.status()} == {"ready"}
    assert local.down(silent) == 2 * len(ROLES)
    assert family(state) == []
    assert local.file.load() is None
    assert local.down(silent) == 0


def test_up_twice_starts_nothing_twice(local: LocalStack, fake: FakeServices) -> None:
    first = local.up(silent)
    second = local.up(silent)
    assert second == first
    assert sorted(fake.started) == sorted(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_only_what_died_is_started_again(local: LocalStack, fake: FakeServices, role: str) -> None:
    first = local.up(silent)
    killed(first, role)
    assert {row.role: row.state for row in local.status()}[role] == "dead"
    if ROLES[role].needed:
        with pytest.raises(StackError, match="lacks its"):
            local.require()
    else:
        local.require()
    second = local.up(silent)
    assert second.id == first.id
    assert second.ports == first.ports  # the addresses in a shell stay right
    assert {r for r in ROLES if pids(second)[r] != pids(first)[r]} == {role}
    # Only without a worker: otherwise it may just be starting the process of a run.
    assert fake.searched == 1 + (role == "worker")
    local.require()


def test_a_part_that_lives_but_cannot_work_again_is_replaced(local: LocalStack, fake: FakeServices) -> None:
    first = local.up(silent)
    fake.broken = {"ray"}
    assert {row.role: row.state for row in local.status()}["ray"] == "broken", "also while it still answers"
    second = local.up(silent)
    assert {r for r in ROLES if pids(second)[r] != pids(first)[r]} == {"ray"}
    assert process_of(first.processes["ray"], first.id) is None
    assert second.ports == first.ports


def test_up_says_ready_only_for_what_still_answers(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray was ready, and ends while the worker starts."""
    monkeypatch.setattr(starting, "CONFIRM_SECONDS", 0.5)

    def ready(role: str, state: StackState) -> bool:
        if role == "worker" and process_of_role(state, "ray") is not None:
            killed(state, "ray")
        return role != "ray" or process_of_role(state, "ray") is not None

    fake.ready = ready
    with pytest.raises(StackError, match="Ray head was ready, but has ended"):
        local.up(silent)
    assert local.file.load() is None


def test_a_part_that_answers_again_within_seconds_is_ready(local: LocalStack, fake: FakeServices) -> None:
    asked: list[str] = []
    fake.ready = lambda role, state: asked.append(role) is None and (role != "prefect" or asked.count(role) != 2)
    local.up(silent)
    assert asked.count("prefect") == 3


def test_an_orphan_is_ended_before_its_parent_is_replaced(local: LocalStack) -> None:
    first = local.up(silent)
    wait_for(lambda: len(family(first)) == 2 * len(ROLES))
    killed(first, "ray")
    second = local.up(silent)
    wait_for(lambda: len(family(second)) == 2 * len(ROLES))  # not one more: the old child was ended


def test_the_worker_is_started_anew_when_an_address_changes(local: LocalStack) -> None:
    first = local.up(silent)
    killed(first, "ray")
    with socket.create_server(("127.0.0.1", first.ports["ray_dashboard"])):
        second = local.up(silent)
    assert second.ports["ray_dashboard"] != first.ports["ray_dashboard"]
    assert pids(second)["worker"] != pids(first)["worker"]
    assert pids(second)["prefect"] == pids(first)["prefect"]


def test_flows_go_on_when_the_address_of_a_part_that_they_do_not_need_changes(local: LocalStack) -> None:
    first = local.up(silent)
    wait_for(lambda: len(family(first, ["worker"])) == 2)  # with its flow
    flow = next(p for p in family(first, ["worker"]) if p.pid != first.processes["worker"].pid)
    killed(first, "prometheus")
    with socket.create_server(("127.0.0.1", first.ports["prometheus"])):
        second = local.up(silent)
    assert second.ports["prometheus"] != first.ports["prometheus"]
    assert pids(second)["worker"] != pids(first)["worker"], "its next flows link to the new address"
    assert flow.is_running()


def test_a_living_prefect_that_does_not_answer_is_an_error_with_the_remedy(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local.up(silent)
    monkeypatch.setattr(starting, "ANSWER_SECONDS", 0.3)
    fake.ready = lambda role, state: role != "prefect"
    with pytest.raises(StackError, match=f"does not answer; .*kill -9 {first.processes['prefect'].pid}'"):
        local.up(silent)
    assert local.file.load() == first
    assert process_of_role(first, "prefect") is not None


def test_a_living_part_that_no_flow_needs_is_replaced_when_it_does_not_answer(
    local: LocalStack, fake: FakeServices
) -> None:
    first = local.up(silent)
    fake.ready = lambda role, state: role != "prometheus" or fake.started.count(role) == 2
    second = local.up(silent)
    assert {r for r in ROLES if pids(second)[r] != pids(first)[r]} == {"prometheus"}
    assert second.ports == first.ports


def test_a_worker_that_was_started_anew_is_ended_if_that_fails(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local.up(silent)
    killed(first, "ray")
    monkeypatch.setitem(ROLES, "worker", replace(ROLES["worker"], start_seconds=0.3))
    fake.ready = lambda role, state: role != "worker"
    with socket.create_server(("127.0.0.1", first.ports["ray_dashboard"])), pytest.raises(StackError):
        local.up(silent)
    now = local.file.load()
    assert now is not None
    assert {role for role in ROLES if process_of_role(now, role)} == set(ROLES) - {"ray", "worker"}
    assert pids(now)["worker"] != pids(first)["worker"]


def test_a_worker_that_does_not_come_back_to_a_new_server_is_replaced_without_its_flows(
    local: LocalStack, fake: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local.up(silent)
    wait_for(lambda: len(family(first, ["worker"])) == 2)  # with its flow
    flow = next(p for p in family(first, ["worker"]) if p.pid != first.processes["worker"].pid)
    killed(first, "prefect")
    monkeypatch.setattr(starting, "RETURN_SECONDS", 0.3)
    fake.ready = lambda role, state: role != "worker" or fake.started.count("worker") == 2
    said: list[str] = []
    second = local.up(said.append)
    assert pids(second)["worker"] != pids(first)["worker"]
    assert process_of_role(first, "worker") is None
    assert flow.is_running()
    assert any("has not come back to the server" in line for line in said)


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


@pytest.mark.parametrize("everything", [True, False])
def test_down_after_parents_were_killed(local: LocalStack, everything: bool) -> None:
    state = local.up(silent)
    wait_for(lambda: len(family(state)) == 2 * len(ROLES))
    killed(state, *(ROLES if everything else ("ray",)))
    assert local.down(silent) == (len(ROLES) if everything else 2 * len(ROLES) - 1)
    assert family(state) == []


def test_a_stack_whose_record_is_lost_is_not_doubled_and_can_be_ended(local: LocalStack) -> None:
    state = local.up(silent)
    wait_for(lambda: len(family(state)) == 2 * len(ROLES))
    local.file.forget()
    for command in (lambda: local.up(silent), local.status):
        with pytest.raises(StackError, match="no file records them; end them with 'agevlm down'"):
            command()
    assert len(family(state)) == 2 * len(ROLES)
    assert local.down(silent) == 2 * len(ROLES)
    assert family(state) == []
    assert local.status() == []


def test_a_stack_beside_a_recorded_one_is_ended_too(local: LocalStack) -> None:
    first = local.up(silent)
    local.file.save(StackState(id="another"))
    with pytest.raises(StackError, match="no file records them"):
        local.up(silent)
    assert local.down(silent) >= len(ROLES)
    assert family(first) == []


def test_a_stack_of_another_home_is_left_alone(local: LocalStack) -> None:
    state = local.up(silent)
    other = stack_in(replace(local.folders, home=local.folders.home / "other"))
    assert other.status() == []
    assert other.down(silent) == 0
    assert {role for role in ROLES if process_of_role(state, role)} == set(ROLES)


@pytest.mark.parametrize("content", ["", "{", '{"id": 7}'])
def test_down_works_with_a_damaged_record(content: str, local: LocalStack) -> None:
    state = local.up(silent)
    local.file.path.write_text(content)
    for command in (lambda: local.up(silent), local.status, local.require):
        with pytest.raises(StackError, match=r"is damaged(.|\n)*agevlm down"):
            command()
    said: list[str] = []
    assert local.down(said.append) >= len(ROLES)
    assert "is damaged" in said[0]
    assert family(state) == []
    assert not local.file.path.exists()


def test_the_record_of_another_version_is_understood(local: LocalStack) -> None:
    state = local.up(silent)
    local.file.path.write_text(json.dumps({**state.model_dump(mode="json"), "colour": "red"}))
    assert {row.state for row in local.status()} == {"ready"}
    assert local.up(silent) == state
    assert local.down(silent) >= len(ROLES)


def test_a_living_stack_of_another_project_is_not_used(local: LocalStack) -> None:
    theirs = local.up(silent).model_copy(update={"root": "/their/project"})
    local.file.save(theirs)
    for command in (lambda: local.up(silent), local.require):
        with pytest.raises(
            StackError, match=r"belongs to the project in /their/project, but this is .*unset AGEVLM_HOME"
        ):
            command()
    assert {row.state for row in local.status()} == {"ready"}
    killed(theirs, *ROLES)
    assert local.up(silent).root == str(local.folders.project)  # no living process imports theirs
    local.require()


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


def test_the_store_of_a_living_stack_cannot_be_changed(local: LocalStack) -> None:
    first = local.up(silent)
    assert first.store == local.folders.store
    other = stack_in(replace(local.folders, store="/elsewhere"))
    assert other.process_environment({})["AGEVLM_STORE"] == first.store  # the store of its flows
    with pytest.raises(StackError, match=r"works on the store .*artifacts, but here the store is /elsewhere"):
        other.up(silent)
    other.down(silent)
    assert other.up(silent).store == "/elsewhere"


def test_up_and_down_do_not_run_at_once(local: LocalStack) -> None:
    with local.file.lock(), pytest.raises(StackError, match="is running"):
        local.up(silent)


def test_old_ray_sessions_lose_all_but_their_logs(local: LocalStack) -> None:
    folder = local.folders.ray
    for day in range(1, 6):
        for part in ("logs", "sockets"):
            (folder / f"session_2026-01-0{day}_x" / part).mkdir(parents=True)
            (folder / f"session_2026-01-0{day}_x" / part / "file").write_text("x")
    (folder / "session_latest").symlink_to(folder / "session_2026-01-05_x")
    (folder / "other").mkdir()
    local.up(silent)
    left = {str(path.relative_to(folder)) for path in folder.rglob("file")}
    assert left == {f"session_2026-01-0{day}_x/logs/file" for day in (3, 4, 5)}
    assert (folder / "other").is_dir()


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


def test_up_makes_the_secret_and_takes_the_home_from_other_users(local: LocalStack) -> None:
    home = local.folders.home
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "old.log").touch()
    for path, mode in ((home, 0o755), (home / "logs", 0o777), (home / "logs" / "old.log", 0o644)):
        path.chmod(mode)
    said: list[str] = []
    local.up(said.append)
    assert f"2 files and folders in {home} were open to other users" in said[0]
    assert home.stat().st_mode & 0o777 == 0o700
    assert not [path for path in home.rglob("*") if path.lstat().st_mode & 0o077]
    assert len(local.secret()) == 64
    assert local.secret() not in "".join(said)


def test_a_lost_secret_is_taken_from_the_living_servers(local: LocalStack) -> None:
    local.up(silent)
    secret = local.secret()
    local.folders.secret.unlink()
    said: list[str] = []
    local.up(said.append)
    assert local.secret() == secret
    assert "written again, with the secret of the running servers" in "".join(said)


def test_pages_listen_on_the_host_that_was_asked_for(local: LocalStack, fake: FakeServices) -> None:
    with pytest.raises(StackError, match="no address of this machine"):
        local.up(silent, "192.0.2.1")
    assert fake.started == []
    state = local.up(silent, "0.0.0.0")
    assert (state.host, state.url("prefect")) == ("0.0.0.0", f"http://127.0.0.1:{state.ports['prefect']}")
    assert local.up(silent) == state, "without the option it stays as it is"
    with pytest.raises(StackError, match=r"listens on 0\.0\.0\.0; to listen on 127\.0\.0\.1, end it"):
        local.up(silent, "127.0.0.1")
    local.down(silent)
    assert local.up(silent).host == "127.0.0.1"
