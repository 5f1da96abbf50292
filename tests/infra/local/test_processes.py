"""The processes of a stack are found by their mark, and no other process is found."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.local.folders import Folders
from infra.local.processes import (
    MARK,
    end,
    family,
    is_running,
    log_tail,
    own_niceness,
    process_of,
    set_priority,
    spawn,
    stacks_of_home,
)
from infra.local.stack_file import ProcessRecord, StackState
from tests.infra.local.fixtures_home import wait_for

SLEEP = "import time; time.sleep(600)"
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


Start = Callable[[StackState, str, str], tuple[StackState, ProcessRecord]]


@pytest.fixture
def stack() -> Iterator[StackState]:
    state = StackState(id=f"test-{os.getpid()}-{time.monotonic_ns()}")
    yield state
    end(family(state), 0)


@pytest.fixture
def started(folders: Folders) -> Start:
    """Starts a Python program in a role of a stack."""

    def start(state: StackState, role: str, code: str) -> tuple[StackState, ProcessRecord]:
        record = spawn(folders, role, [sys.executable, "-c", code], state)
        return state.with_process(record), record

    return start


def last_line(record: ProcessRecord) -> str:
    return Path(record.log).read_text().strip().splitlines()[-1]


def test_a_started_process_is_recognised_until_it_ends(stack: StackState, started: Start) -> None:
    stack, record = started(stack, "ray", SLEEP)
    process = process_of(record, stack.id)
    assert process is not None
    assert os.getsid(record.pid) == record.pid  # in its own session Ctrl-C does not reach it
    assert end([process], 5) == 1
    assert process_of(record, stack.id) is None


def test_another_process_with_the_same_number_is_not_ours(stack: StackState) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        wait_for(lambda: psutil.Process(stranger.pid).environ())
        created = psutil.Process(stranger.pid).create_time()
        record = ProcessRecord(role="ray", pid=stranger.pid, created=created, log="", command=[])
        stack = stack.with_process(record)
        # Same pid and same start time, as after the clock was set back, but without the mark.
        assert process_of(record, stack.id) is None
        assert family(stack) == []
        assert end(family(stack), 0) == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_orphan_in_a_session_of_its_own_is_found_after_its_parent_was_killed(
    stack: StackState, started: Start
) -> None:
    stack, record = started(stack, "ray", PARENT)
    wait_for(lambda: last_line(record).isdigit())
    child = int(last_line(record))
    os.kill(record.pid, signal.SIGKILL)
    wait_for(lambda: process_of(record, stack.id) is None)
    assert [process.pid for process in family(stack)] == [child]
    orphan = psutil.Process(child)
    assert end(family(stack), 5) == 1
    assert not is_running(orphan)


def test_a_role_has_its_descendants_but_not_those_of_another(stack: StackState, started: Start) -> None:
    stack, ray = started(stack, "ray", PARENT)
    stack, worker = started(stack, "worker", SLEEP)
    wait_for(lambda: last_line(ray).isdigit())
    assert {process.pid for process in family(stack, ["ray"])} == {ray.pid, int(last_line(ray))}
    assert {process.pid for process in family(stack, ["worker"])} == {worker.pid}
    assert len(family(stack)) == 3


def test_a_process_whose_environment_is_not_there_yet_is_known_by_its_start(
    stack: StackState, started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, record = started(stack, "ray", SLEEP)
    # This is how it reads between fork and the first instruction of the new program.
    monkeypatch.setattr(psutil.Process, "environ", lambda process: {})
    assert process_of(record, stack.id) is not None
    assert process_of(record.model_copy(update={"created": record.created - 5}), stack.id) is None


def test_a_process_that_ignores_sigterm_is_killed(stack: StackState, started: Start) -> None:
    stack, record = started(stack, "ray", STUBBORN)
    wait_for(lambda: last_line(record) == "up")
    before = time.monotonic()
    end(family(stack), 0.3)
    assert 0.3 <= time.monotonic() - before < 5
    assert process_of(record, stack.id) is None


def test_a_process_never_ends_itself(folders: Folders) -> None:
    code = (
        "from infra.local.processes import family\nfrom infra.local.stack_file import StackState\n"
        "print(family(StackState(id='own')))"
    )
    environment = {**os.environ, MARK: "own", "PYTHONPATH": str(folders.project)}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_a_stack_is_found_by_its_home_alone(stack: StackState, started: Start, folders: Folders) -> None:
    assert stacks_of_home(folders.home) == set()
    stack, _ = started(stack, "ray", SLEEP)
    wait_for(lambda: stacks_of_home(folders.home) == {stack.id})
    assert stacks_of_home(folders.home / "other") == set()
    end(family(stack), 5)
    assert stacks_of_home(folders.home) == set()


def test_the_own_priority_is_the_one_that_was_given(folders: Folders) -> None:
    code = "from infra.local.processes import own_niceness; print(own_niceness())"
    command = ["nice", "-n", "3", sys.executable, "-c", code]
    output = subprocess.run(command, cwd=folders.project, capture_output=True, text=True, check=True).stdout
    assert int(output) == min(own_niceness() + 3, 19)


def test_the_end_of_a_log_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("\n".join(f"line {i}" for i in range(50)))
    assert log_tail(log, 2) == "  | line 48\n  | line 49"
    assert "no log" in log_tail(tmp_path / "absent.log")


def test_a_priority_reaches_the_process_and_its_session(stack: StackState, started: Start) -> None:
    stack, record = started(stack, "ray", SLEEP)
    process = psutil.Process(record.pid)
    before = process.nice()
    if before > 17:
        pytest.skip(f"the tests run at niceness {before}, so no process can get a lower priority")
    set_priority([process], before + 1)  # every user may lower a priority
    assert process.nice() == before + 1
    autogroup = Path(f"/proc/{record.pid}/autogroup")
    if autogroup.exists():
        assert autogroup.read_text().endswith(f"nice {before + 1}\n")
    set_priority(
        [process], -20 if os.getuid() else before + 2
    )  # refused without an error to those who may not raise it
