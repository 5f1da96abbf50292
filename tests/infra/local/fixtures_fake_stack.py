"""A stack with sleeping processes in the place of servers."""

import os
import signal
import sys
from collections.abc import Callable

from infra.local.folders import Folders
from infra.local.lost_runs import CloseRun
from infra.local.processes import process_of, spawn
from infra.local.roles.table import ROLES
from infra.local.stack import LocalStack
from infra.local.stack_file import ProcessRecord, StackFile, StackState
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


def stack_in(folders: Folders) -> LocalStack:
    return LocalStack(
        folders, StackFile(folders.state_file, write_text), lambda store, run, message: "", lambda store, run: ""
    )


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
