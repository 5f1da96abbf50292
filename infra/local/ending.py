"""Ends the processes of a stack: role by role in the right order, then everything else that carries its id."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from infra.local.lost_runs import flow_run_of
from infra.local.processes import end, family
from infra.local.roles.table import ENDING, ROLES
from infra.local.stack_file import StackError, StackState

SEARCHES = 5
KEPT_SESSIONS = 3


def end_roles(state: StackState, roles: Sequence[str]) -> int:
    """End the processes of these roles with their descendants. Returns how many there were."""
    return sum(end(family(state, [role]), ROLES[role].grace) for role in ENDING if role in roles)


def end_everything(state: StackState) -> int:
    """End all roles in their order, then every other process that carries the stack's id. Returns how many there were.

    Raises StackError if processes cannot be ended (they belong to another user, or hang in the kernel).
    """
    count = 0
    for role in ENDING:
        members = family(state, [role])
        heads = [p for p in members if role in state.processes and p.pid == state.processes[role].pid]
        # The flows of the worker get SIGTERM too, so that they can report to the server. Of Ray only the head gets it:
        # it ends the others in the right order.
        end(members if role == "worker" else heads, ROLES[role].grace)
        end(members, 3)
        count += len(members)
    for _ in range(SEARCHES):  # a process may have been started during the search before
        rest = family(state)
        if not rest:
            return count
        count += end(rest, 5)
    left = family(state)
    if left:
        raise StackError(f"these processes do not end: {', '.join(str(p.pid) for p in left)}; end them by hand")
    return count


def end_orphans(state: StackState, roles: Sequence[str]) -> None:
    """End the processes that dead processes of these roles left behind, before their successors start.

    A flow whose worker was killed is left alone: it still waits for its jobs and reports on them to the server.
    """
    everything = family(state)
    # Listed second: so a process that a living role has just started counts as that role's.
    others = {p.pid for p in family(state, [role for role in ROLES if role not in roles])}
    end([p for p in everything if p.pid not in others and not flow_run_of(p)], 5)


def prune_sessions(ray_folder: Path) -> None:
    """Delete what ended Ray sessions left (sockets, spilled objects, logs), but keep the logs of the latest three."""
    sessions = sorted(p for p in ray_folder.glob("session_2*") if p.is_dir() and not p.is_symlink())
    for age, session in enumerate(reversed(sessions)):
        for entry in session.iterdir():
            if age >= KEPT_SESSIONS or entry.name != "logs":
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
        if age >= KEPT_SESSIONS:
            session.rmdir()
