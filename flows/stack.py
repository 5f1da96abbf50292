"""The local stack as a whole: up, down, and what state it is in."""

import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from flows import services
from flows.deployments import deploy
from flows.home import ROOT, home, ray_folder, store_root
from flows.processes import end, family, log_tail, own_niceness, process_of, set_priority, stacks_of_home
from flows.reaper import crash_lost_runs, flow_run_of
from flows.state import ROLES, StackError, StackState, forget, load, lock, save

Say = Callable[[str], None]
NAMES = {"prefect": "Prefect server", "ray": "Ray head", "worker": "Prefect worker"}
START_SECONDS = {"prefect": 240.0, "ray": 180.0, "worker": 120.0}
ATTEMPTS = {"prefect": 2, "ray": 5}
"""A server may find its port taken since it was chosen free: a second attempt takes another. Ray's raylet also gives
up if its agents take more than 15 s to start, which is fixed in its code (ray-project/ray#65983) and happens on a busy
machine: so Ray starts with a higher priority where that is allowed, and is tried more often."""
GRACE = {"worker": 15.0, "ray": 15.0, "prefect": 10.0}
"""Seconds to end by themselves, in this order: a flow's last words need the server, its jobs need Ray."""
POLL_SECONDS = 0.5
HURRY = 10
"""By so much is Ray's niceness lowered while it starts."""
SEARCHES = 5
KEPT_SESSIONS = 3


@dataclass(frozen=True)
class RoleStatus:
    """What `agevlm status` says of one role."""

    role: str
    name: str
    pid: int | None
    state: str
    url: str
    log: str


def up(say: Say) -> StackState:
    """Start what is not running of the stack, and deploy. Harmless if everything runs.

    What this call started is ended again if it fails or is interrupted. Raises StackError with the reason.
    """
    with lock():
        before = load() or StackState(id=secrets.token_hex(16), cpus=services.logical_cpus())
        _refuse_lost(before.id)
        missing = [role for role in ROLES if _living(before, role) is None]
        if len(missing) < len(ROLES):
            _refuse_others(before)
            if before.store != store_root():
                raise StackError(
                    f"the stack is up and works on the store {before.store}, but here the store is {store_root()}: "
                    "set AGEVLM_STORE as it was, or end the stack with 'agevlm down' first"
                )
            if missing:
                say(f"not running: {', '.join(NAMES[role] for role in missing)}")
        state = before.model_copy(update={"root": str(ROOT), "store": store_root()})
        try:
            return _start(state, missing, say)
        except BaseException:
            say("ending what was started")
            now = state_or(state)
            _end_roles(now, [role for role in ROLES if now.processes.get(role) != before.processes.get(role)])
            if len(missing) == len(ROLES):
                _end_everything(now)
                forget()
            raise


def state_or(state: StackState) -> StackState:
    """The recorded state, which knows every process that was started, or else this one."""
    return load() or state


def down(say: Say) -> int:
    """End every process of this home's stack, also of one whose record is lost. Returns how many there were."""
    with lock():
        try:
            state = load()
        except StackError as error:
            say(str(error))
            state = None
        known = {state.id: state} if state is not None else {}
        lost = {stack: StackState(id=stack) for stack in stacks_of_home() - known.keys()}
        count = sum(_end_everything(found) for found in (known | lost).values())
        if known or lost:
            _prune_sessions()
        forget()
        if count:
            say(f"ended {count} processes")
        return count


def status() -> list[RoleStatus]:
    """Each role with its process and whether it works. Raises StackError if processes live that are not recorded."""
    state = load()
    if state is None:
        _refuse_lost("")
        return []
    rows = []
    for role in ROLES:
        record, process = state.processes.get(role), _living(state, role)
        if process is None:
            condition = "dead" if record else "not started"
        else:
            condition = "ready" if services.ready(role, state) else "not answering"
        address = services.url(role, state) if process else ""
        rows.append(
            RoleStatus(
                role, NAMES[role], process.pid if process else None, condition, address, record.log if record else ""
            )
        )
    return rows


def require() -> StackState:
    """The state of a stack of this project that is up. Raises StackError if there is none, with the remedy."""
    state = load()
    dead = list(ROLES) if state is None else [role for role in ROLES if _living(state, role) is None]
    if state is None or dead:
        what = "is not up" if state is None else "lacks its " + ", ".join(NAMES[role] for role in dead)
        raise StackError(f"the local stack in {home()} {what}; start it with 'agevlm up'")
    _refuse_others(state)
    return state


def _refuse_lost(stack_id: str) -> None:
    """Two stacks would share a database. Raises StackError if another stack than this one lives in this home."""
    if stacks_of_home() - {stack_id}:
        raise StackError(f"processes of a stack live in {home()} that nothing records; end them with 'agevlm down'")


def _refuse_others(state: StackState) -> None:
    """Its worker imports flows from the project that started it. Raises StackError if that is not this one."""
    if state.root not in ("", str(ROOT)):
        raise StackError(
            f"the stack in {home()} is that of the project in {state.root}, but this is {ROOT}: 'unset AGEVLM_HOME "
            "AGEVLM_STORE' to have a stack of its own here, or end that one with 'agevlm down' first"
        )


def _living(state: StackState, role: str) -> psutil.Process | None:
    record = state.processes.get(role)
    return process_of(record, state.id) if record else None


# -- starting


def _start(state: StackState, missing: list[str], say: Say) -> StackState:
    before = state.ports
    for role in missing:
        state = services.with_ports(state, role)
    save(state)
    servers = [role for role in ("ray", "prefect") if role in missing]
    _sweep(state, servers)
    for role in servers:
        state = _launch(state, role, say)
    if "prefect" in missing:
        state = _await_server(state, "prefect", say)
    services.make_pool(state)
    names = deploy(state)
    say(f"deployed: {', '.join(names)}")
    if "ray" in missing:
        state = _await_server(state, "ray", say)
        set_priority(family(state, ["ray"]), own_niceness())
    if any(state.ports[name] != port for name, port in before.items()):
        _end_roles(state, ["worker"])  # it knows the old addresses
    if _living(state, "worker") is None:
        lost = crash_lost_runs(state)
        if lost:
            say(f"marked as crashed, for their processes are gone: {', '.join(lost)}")
        # Last, for it hands the addresses of the others to its flows.
        state = state.model_copy(update={"worker": f"agevlm-{secrets.token_hex(4)}"})
        state = _launch(state, "worker", say)
        _await(state, "worker", say)
    return state


def _launch(state: StackState, role: str, say: Say) -> StackState:
    record = services.start(role, state)
    state = state.with_process(record)
    save(state)
    say(f"starting {NAMES[role]} (pid {record.pid}, log {record.log})")
    if role == "ray":
        set_priority(family(state, ["ray"]), own_niceness() - HURRY)
    return state


def _await(state: StackState, role: str, say: Say) -> None:
    """Wait until a role works. Raises StackError if its process ends or takes too long."""
    record = state.processes[role]
    started, told = time.monotonic(), 0.0
    while not services.ready(role, state):
        waited = time.monotonic() - started
        if _living(state, role) is None:
            raise StackError(f"{NAMES[role]} ended while it started ({record.log}):\n{log_tail(record.log)}")
        if waited > START_SECONDS[role]:
            raise StackError(
                f"{NAMES[role]} did not answer within {START_SECONDS[role]:.0f} s ({record.log}):\n"
                + log_tail(record.log)
            )
        if waited - told >= 15:
            say(f"waiting for {NAMES[role]} ({waited:.0f} s)")
            told = waited
        time.sleep(POLL_SECONDS)
    say(f"{NAMES[role]} is ready {services.url(role, state)}".rstrip())


def _await_server(state: StackState, role: str, say: Say) -> StackState:
    """Wait until a server works, and start it again if it ends meanwhile. Raises StackError if that does not help."""
    attempt = 1
    while True:
        try:
            _await(state, role, say)
            return state
        except StackError as error:
            if attempt == ATTEMPTS[role]:
                raise
            attempt += 1
            reason = str(error).splitlines()[0]
            say(f"{NAMES[role]} did not start, attempt {attempt} of {ATTEMPTS[role]}: {reason}")
        _end_roles(state, [role])
        _sweep(state, [role])
        state = _launch(services.with_ports(state, role), role, say)


def _sweep(state: StackState, roles: Sequence[str]) -> None:
    """End what dead processes of these roles left behind, before others are started in their place.

    A flow whose worker was killed is left alone: it still waits for its jobs and tells the server of them.
    """
    if not roles:
        return
    everything = family(state)
    # Looked at later, so that what the living start meanwhile is theirs.
    others = {p.pid for p in family(state, [role for role in ROLES if role not in roles])}
    end([p for p in everything if p.pid not in others and not flow_run_of(p)], 5)
    if "ray" in roles:
        _prune_sessions()


# -- ending


def _end_roles(state: StackState, roles: list[str]) -> int:
    return sum(end(family(state, [role]), GRACE[role]) for role in reversed(ROLES) if role in roles)


def _end_everything(state: StackState) -> int:
    """End the roles in their order, then whatever else carries the stack's mark.

    Raises StackError if processes cannot be ended (they belong to another user, or hang in the kernel).
    """
    count = 0
    for role in GRACE:
        members = family(state, [role])
        heads = [p for p in members if role in state.processes and p.pid == state.processes[role].pid]
        # Worker: its flows are asked too, so that they can tell the server. Ray: its head ends the others in order.
        end(members if role == "worker" else heads, GRACE[role])
        end(members, 3)
        count += len(members)
    for _ in range(SEARCHES):  # again, for one may have been started while we looked
        rest = family(state)
        if not rest:
            return count
        count += end(rest, 5)
    left = family(state)
    if left:
        raise StackError(f"these processes do not end: {', '.join(str(p.pid) for p in left)}; end them by hand")
    return count


def _prune_sessions() -> None:
    """Of Ray sessions that have ended keep the last few logs; sockets, spilled objects and older logs go."""
    sessions = sorted(p for p in ray_folder().glob("session_2*") if p.is_dir() and not p.is_symlink())
    for age, session in enumerate(reversed(sessions)):
        for entry in session.iterdir():
            if age >= KEPT_SESSIONS or entry.name != "logs":
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
        if age >= KEPT_SESSIONS:
            session.rmdir()
