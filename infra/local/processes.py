"""The stack's processes: started each in its own session, recognised by a mark, ended with all their descendants.

Every process carries the stack's random id in its environment and hands it on to its children. So the processes of a
stack are found even after their parent was killed, and no other process is ever touched.
"""

import os
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from infra.local.environment import HOME, process_environment
from infra.local.folders import Folders
from infra.local.logs import rotate
from infra.local.stack_file import ProcessRecord, StackState

MARK = "AGEVLM_STACK_ID"
"""Environment variable with the stack's id. Never exported to a user's shell."""

CLOCK_TOLERANCE = 0.05
"""Seconds by which two readings of the same process's start may differ."""


def spawn(
    folders: Folders, role: str, command: list[str], state: StackState, extra: Mapping[str, str] | None = None
) -> ProcessRecord:
    """Start a process of the stack. Its output is appended to the log file of its role, which is rotated first."""
    folders.logs.mkdir(parents=True, exist_ok=True)
    log = folders.logs / f"{role}.log"
    rotate(log)
    environment = process_environment(folders, state, {"PYTHONUNBUFFERED": "1", **(extra or {}), MARK: state.id})
    with open(log, "ab") as output:
        output.write(f"\n---- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            cwd=folders.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal does not reach it
            umask=folders.umask,
        )
    created = psutil.Process(process.pid).create_time()
    return ProcessRecord(role=role, pid=process.pid, created=created, log=str(log), command=command)


def is_running(process: psutil.Process) -> bool:
    """True if a process exists and is no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def process_of(record: ProcessRecord, stack_id: str) -> psutil.Process | None:
    """The living process of a record, or None if it ended, also if another process has its pid now."""
    try:
        process = psutil.Process(record.pid)
        if not is_running(process):
            return None
        same_start = abs(process.create_time() - record.created) <= CLOCK_TOLERANCE
    except psutil.Error:
        return None
    mark = mark_of(process)
    # The mark decides. Where the environment cannot be read, the start time does.
    ours = mark == stack_id if mark is not None else same_start
    return process if ours else None


def living(state: StackState, role: str) -> psutil.Process | None:
    """The living process of a role, or None."""
    record = state.processes.get(role)
    return process_of(record, state.id) if record else None


def mark_of(process: psutil.Process) -> str | None:
    """The stack id in a process's environment; '' if it has none, None if its environment cannot be read.

    For a moment after a program was started its environment reads as empty: that counts as unreadable.
    """
    environment = environment_of(process)
    return environment.get(MARK, "") if environment else None


def stacks_of_home(home: Path) -> set[str]:
    """Ids of the stacks that have a living process in this home folder, also of one whose record was lost."""
    spared = _spared()
    found = (environment_of(process) for process in psutil.process_iter() if process.pid not in spared)
    return {e[MARK] for e in found if e.get(MARK) and e.get(HOME) == str(home)}


def family(state: StackState, roles: Iterable[str] | None = None) -> list[psutil.Process]:
    """Living processes of a stack: the recorded ones, their descendants, and every process that carries the mark.

    Args:
        state: the stack.
        roles: only the recorded processes of these roles with their descendants; all if not given.
    """
    chosen = list(state.processes) if roles is None else [role for role in roles if role in state.processes]
    found: dict[int, psutil.Process] = {}
    for role in chosen:
        process = process_of(state.processes[role], state.id)
        if process is None:
            continue
        found[process.pid] = process
        try:
            found.update({child.pid: child for child in process.children(recursive=True)})
        except psutil.Error:
            continue  # it ended just now
    if roles is None:
        found.update({process.pid: process for process in psutil.process_iter() if mark_of(process) == state.id})
    spared = _spared()
    return [process for pid, process in found.items() if pid not in spared and is_running(process)]


def programs(state: StackState, role: str) -> set[str]:
    """File names of the programs and scripts that the processes of a role run."""
    found: set[str] = set()
    for process in family(state, [role]):
        with suppress(psutil.Error):  # it ended just now
            found.update(Path(word).name for word in process.cmdline())
    return found


def end(processes: Iterable[psutil.Process], grace: float) -> int:
    """Send SIGTERM, wait up to `grace` seconds, kill the rest. Returns the number of processes."""
    living = [process for process in processes if is_running(process)]
    for process in living:
        _signal(process, kill=False)
    left = _wait(living, grace)
    for process in left:
        _signal(process, kill=True)
    _wait(left, 5)
    return len(living)


def kill_alone(process: psutil.Process) -> None:
    """Kill one process, and none of its descendants."""
    _signal(process, kill=True)
    _wait([process], 5)


def set_priority(processes: Iterable[psutil.Process], niceness: int) -> None:
    """Set the niceness of processes, which their children inherit; where that is not allowed nothing changes.

    A higher priority needs root, as in many containers. Linux shares a busy machine between sessions first and between
    a session's processes second, so the niceness of the session (its "autogroup") is set as well.
    """
    for process in processes:
        with suppress(psutil.Error, OSError):
            if process.nice() != niceness:
                process.nice(niceness)
        autogroup = Path(f"/proc/{process.pid}/autogroup")
        with suppress(OSError):
            if autogroup.exists() and os.getsid(process.pid) == process.pid:
                autogroup.write_text(str(niceness), encoding="ascii")


def own_niceness() -> int:
    """The niceness of this process, for example as `nice` set it."""
    return psutil.Process().nice()


def niceness_of(process: psutil.Process) -> int:
    """The niceness of a process; 0 if it ended just now."""
    try:
        return process.nice()
    except psutil.Error:
        return 0


def environment_of(process: psutil.Process) -> dict[str, str]:
    """A process's environment; empty if it cannot be read."""
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def _spared() -> set[int]:
    """This process and its ancestors, which are never ended."""
    return {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}


def _signal(process: psutil.Process, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.Error:
        return  # it ended just now, or belongs to another user: then the caller finds it again


def _wait(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    left = [process for process in processes if is_running(process)]
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [process for process in left if is_running(process)]
    return left


def log_tail(path: str | Path, lines: int = 15) -> str:
    """The last lines of a log file, for the message about a process that ended."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(f"  | {line}" for line in text.rstrip().splitlines()[-lines:])
