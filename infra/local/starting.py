"""Starts the processes of a stack that are missing, in the right order, and waits until each of them works."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from infra.local.deployments import deploy
from infra.local.ending import end_orphans, end_roles, prune_sessions
from infra.local.folders import Folders
from infra.local.lost_runs import CloseRun, EndCancel, cancel_lost_runs, crash_lost_runs
from infra.local.processes import family, kill_alone, living, log_tail, niceness_of, own_niceness, set_priority
from infra.local.roles.prefect import make_pool, prefect_api
from infra.local.roles.table import ROLES
from infra.local.stack_file import ProcessRecord, StackError, StackFile, StackState

Say = Callable[[str], None]
"""Prints one line of progress."""
POLL_SECONDS = 0.5
ANSWER_SECONDS = 90.0
"""Time in which a Prefect server that lives must answer: it may be busy, or starting since an `up` that was killed."""
CONFIRM_SECONDS = 20.0
"""Time in which all roles must answer at once after the last one became ready."""
BROKEN_SECONDS = 5.0
"""Time for which a server that starts may lack a process that it had, before it is started again."""
RETURN_SECONDS = 15.0
"""Time in which a worker comes back to a Prefect server that was started again."""
HURRY = 10
"""Ray's niceness is lowered by this much while it starts: see its row in the table of roles."""


@dataclass(frozen=True)
class Starter:
    """Starts roles of the stack of one home folder."""

    folders: Folders
    file: StackFile
    close_run: CloseRun
    end_cancel: EndCancel
    say: Say

    def start(self, state: StackState, missing: list[str]) -> StackState:
        """Start the missing roles and deploy. Returns the new state.

        All servers start at the same time, and Prefect is set up while Ray is still starting. Their ports are chosen
        before, so that Ray is told of Prometheus and Grafana. The worker comes last: it gives the addresses of the
        servers to its flows, so it is also restarted if one of them has changed.
        """
        before = state.ports
        absent = [r for r in ROLES if not ROLES[r].wanted() and living(state, r) is None]
        unwanted = {port for role in absent for port in ROLES[role].ports}
        state = state.model_copy(update={"ports": {n: p for n, p in before.items() if n not in unwanted}})
        for role in missing:
            state = ROLES[role].with_ports(state)
        self.file.save(state)
        servers = [role for role in ("ray", "prefect") if role in missing]
        optional = [role for role in ROLES if role in missing and not ROLES[role].needed]
        self._clear(state, [*servers, *optional])
        for role in optional:
            state = self._launch_optional(state, role)
        for role in servers:
            state = self._launch(state, role)
        if "prefect" in missing:
            state = self._await_server(state, "prefect")
        else:
            self._require_answer(state, "prefect", ANSWER_SECONDS)
        make_pool(prefect_api(self.folders, state))
        self.say(f"deployed: {', '.join(deploy(self.folders, state))}")
        if "ray" in missing:
            state = self._await_server(state, "ray")
        if "ray" in missing or self._hurries(state):
            set_priority(family(state, ["ray"]), own_niceness())
        for role in optional:
            state = self._await_optional(state, role)
        self._end_uninformed_worker(state, before)
        if "prefect" in missing:
            self._replace_mute_worker(state)
        if living(state, "worker") is None:
            api = prefect_api(self.folders, state)
            cancelled = cancel_lost_runs(api, state.store, self.end_cancel)
            if cancelled:
                self.say(f"cancelled, as was asked before their processes were lost: {', '.join(cancelled)}")
            lost = crash_lost_runs(api, state.store, self.close_run)
            if lost:
                self.say(f"marked as crashed, because their processes are gone: {', '.join(lost)}")
            state = state.model_copy(update={"worker": f"agevlm-{secrets.token_hex(4)}"})
            state = self._launch(state, "worker")
            self._await(state, "worker")
        return state

    def confirmed(self, state: StackState) -> StackState:
        """The state, once all roles answer at the same time. Raises StackError if one has ended since it was ready.

        Ray's head ends seconds after it was ready if it cannot start its own workers.
        """
        until = time.monotonic() + CONFIRM_SECONDS
        for role in state.processes:
            if role in ROLES and ROLES[role].needed:
                self._require_answer(state, role, until - time.monotonic())
        return state

    def _require_answer(self, state: StackState, role: str, seconds: float) -> None:
        """Wait until a role that was started before answers. Raises StackError with the remedy if it does not."""
        until = time.monotonic() + seconds
        while ROLES[role].broken(state) or not ROLES[role].ready(self.folders, state):
            process = living(state, role)
            if process is None:
                raise self._failed(state.processes[role], "was ready, but has ended; run 'agevlm up' again")
            if time.monotonic() > until:
                what = "does not answer; run 'agevlm up' again"
                raise self._failed(
                    state.processes[role], f"{what}; if that does not help, 'kill -9 {process.pid}' before it"
                )
            time.sleep(POLL_SECONDS)

    def _hurries(self, state: StackState) -> bool:
        """True if Ray still hurries, since an `up` that was killed; its jobs would slow the whole machine down."""
        head = living(state, "ray")
        return head is not None and niceness_of(head) < min(own_niceness(), 0)

    def _end_uninformed_worker(self, state: StackState, before: Mapping[str, int]) -> None:
        """End a worker that gives old addresses to its flows; another one is started then.

        Its flows end with it if they cannot work any more: they have the old address of a server that they need.
        """
        worker = living(state, "worker")
        if state.ports == before or worker is None:
            return
        needed = [port for role in ROLES.values() if role.needed for port in role.ports]
        if all(state.ports.get(port) == before.get(port) for port in needed):
            kill_alone(worker)
        else:
            end_roles(state, ["worker"])

    def _replace_mute_worker(self, state: StackState) -> None:
        """Kill a worker that does not come back to a server that was started again; another one is started then.

        Its client waits up to minutes between two tries, longer the longer the server was away. Its flows are left
        alone: they outlive their worker.
        """
        worker, until = living(state, "worker"), time.monotonic() + RETURN_SECONDS
        if worker is None:
            return
        while not ROLES["worker"].ready(self.folders, state):
            if time.monotonic() > until:
                self.say(f"{ROLES['worker'].title} has not come back to the server: it is replaced; its flows go on")
                kill_alone(worker)
                return
            time.sleep(POLL_SECONDS)

    def _clear(self, state: StackState, servers: Sequence[str]) -> None:
        """End the orphans of these servers and delete the remains of Ray's ended sessions."""
        if servers:
            end_orphans(state, servers)
        if "ray" in servers:
            prune_sessions(self.folders.ray)

    def _launch(self, state: StackState, role: str) -> StackState:
        record = ROLES[role].start(self.folders, state)
        state = state.with_process(record)
        self.file.save(state)
        self.say(f"starting {ROLES[role].title} (pid {record.pid}, log {record.log})")
        if role == "ray":
            set_priority(family(state, ["ray"]), own_niceness() - HURRY)
        return state

    def _launch_optional(self, state: StackState, role: str) -> StackState:
        try:
            return self._launch(state, role)
        except (OSError, StackError) as error:
            return self._without(state, role, str(error))

    def _await_optional(self, state: StackState, role: str) -> StackState:
        if role not in state.processes or any(port not in state.ports for port in ROLES[role].ports):
            return state  # it could not be started
        try:
            self._await(state, role)
        except StackError as error:
            return self._without(state, role, str(error))
        return state

    def _without(self, state: StackState, role: str, reason: str) -> StackState:
        """The state without a role that no run needs: it is ended, and nobody is told its address any more."""
        end_roles(state, [role])
        processes = {name: record for name, record in state.processes.items() if name != role}
        ports = {name: port for name, port in state.ports.items() if name not in ROLES[role].ports}
        state = state.model_copy(update={"processes": processes, "ports": ports})
        self.file.save(state)
        self.say(f"{ROLES[role].title} does not run, which stops no flow: {reason}")
        return state

    def _await(self, state: StackState, role: str) -> None:
        """Wait until a role works. Raises StackError if its process ends or takes too long."""
        record = state.processes[role]
        started, told, whole, last_whole = time.monotonic(), 0.0, False, 0.0
        while not ROLES[role].ready(self.folders, state):
            waited = time.monotonic() - started
            if living(state, role) is None:
                raise self._failed(record, "ended during its start")
            if not ROLES[role].broken(state):
                whole, last_whole = True, waited
            elif whole and waited - last_whole > BROKEN_SECONDS:
                raise self._failed(record, "lost a process that it needs during its start")
            if waited > ROLES[role].start_seconds:
                raise self._failed(record, f"did not answer within {ROLES[role].start_seconds:.0f} s")
            if waited - told >= 15:
                self.say(f"waiting for {ROLES[role].title} ({waited:.0f} s)")
                told = waited
            time.sleep(POLL_SECONDS)
        self.say(f"{ROLES[role].title} is ready {ROLES[role].url(state)}".rstrip())

    def _failed(self, record: ProcessRecord, what: str) -> StackError:
        """The error about a role's process, with the reason from its own logs."""
        role = ROLES[record.role]
        parts = [f"{role.title} {what} ({record.log}):", log_tail(record.log), role.reason(self.folders)]
        return StackError("\n".join(part for part in parts if part))

    def _await_server(self, state: StackState, role: str) -> StackState:
        """Wait until a server works; start it again if it ends. Raises StackError after the last attempt."""
        attempt = 1
        while True:
            try:
                self._await(state, role)
                return state
            except StackError as error:
                if attempt == ROLES[role].attempts:
                    raise
                attempt += 1
                reason = [str(error).splitlines()[0], *ROLES[role].reason(self.folders).splitlines()[-2:]]
                lines = "\n".join(reason)
                self.say(f"{ROLES[role].title} did not start, attempt {attempt} of {ROLES[role].attempts}: {lines}")
            end_roles(state, [role])
            self._clear(state, [role])
            state = self._launch(ROLES[role].with_ports(state), role)
