"""The local stack as a whole: starts it, ends it, and reports its state.

folders.py      the paths that everything below works with
stack_file.py   stack.json: the processes and ports that were recorded
starting.py     starts roles in the right order, and waits until they work
roles/          the table of its processes: start, readiness and ports of each; web.py asks the servers
secret.py       the secret that the servers ask for; private.py keeps files for their owner
processes.py    starts, recognises and ends processes; environment.py gives them their variables
deployments.py  deploys prefect.yaml
lost_runs.py    closes flow runs whose process is gone
ending.py       ends roles, or everything
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from infra.local import environment
from infra.local.certificates import certificate_notes
from infra.local.ending import end_everything, end_roles, prune_sessions
from infra.local.folders import Folders
from infra.local.hosts import check_host
from infra.local.lost_runs import CloseRun, EndCancel
from infra.local.machine import object_store
from infra.local.places import prepare_places
from infra.local.private import mend, new_files, own_folder
from infra.local.processes import (
    environment_of,
    family,
    living,
    stacks_of_home,
)
from infra.local.proxies import proxy_notes
from infra.local.roles.prefect import prefect_api
from infra.local.roles.ray import logical_cpus
from infra.local.roles.table import ROLES
from infra.local.secret import make_secret, read_secret, secret_hint
from infra.local.stack_file import LOOPBACK, StackError, StackFile, StackState
from infra.local.starting import Say, Starter
from infra.local.web import Server


@dataclass(frozen=True)
class RoleStatus:
    """The state of one role, for `agevlm status`."""

    role: str
    name: str
    pid: int | None
    state: str
    url: str
    log: str
    needed: bool = True
    """True if no run can work without it."""


@dataclass(frozen=True)
class LocalStack:
    """The stack of one home folder: Prefect's server, Ray's head and a Prefect worker."""

    folders: Folders
    file: StackFile
    close_run: CloseRun
    end_cancel: EndCancel

    def up(self, say: Say, host: str = "") -> StackState:
        """Start the processes that are not running, and deploy. If everything runs, nothing changes.

        If this fails or is interrupted, the processes that it started are ended again. Raises StackError.

        Args:
            say: prints a line.
            host: address that the pages of Prefect and Ray listen on; that of the running stack, or else loopback, if
                not given.
        """
        with new_files(self.folders.umask):
            notes = [*prepare_places(self.folders), *proxy_notes(os.environ), *certificate_notes(os.environ)]
        with new_files(self.folders.umask), self._private_home(say), self.file.lock():
            before = self.file.load() or StackState(id=secrets.token_hex(16), cpus=logical_cpus())
            self._refuse_unrecorded(before.id)
            wanted = [role for role in ROLES if ROLES[role].wanted()]
            missing = [role for role in wanted if living(before, role) is None]
            fresh = all(living(before, role) is None for role in ROLES)
            self._require_secret(before, say)
            if not fresh:
                if host and host != before.host:
                    raise StackError(
                        f"the stack is up and listens on {before.host}; to listen on {host}, end it with 'agevlm down' "
                        "first"
                    )
                self._refuse_other_project(before)
                if before.store != self.folders.store:
                    raise StackError(
                        f"the stack is up and works on the store {before.store}, but here the store is "
                        f"{self.folders.store}: set AGEVLM_STORE as it was, or end the stack with 'agevlm down' first"
                    )
                broken = [r for r in wanted if r not in missing and self._to_replace(r, before)]
                end_roles(before, broken)
                missing += broken
                if missing:
                    say(f"not running: {', '.join(ROLES[role].title for role in missing)}")
            else:
                before = before.model_copy(update={"host": check_host(host or LOOPBACK)})
            for note in [*notes, object_store().note] if missing else ():
                if note:
                    say(f"note: {note}")
            state = before.model_copy(update={"root": str(self.folders.project), "store": self.folders.store})
            starter = Starter(self.folders, self.file, self.close_run, self.end_cancel, say)
            try:
                return starter.confirmed(starter.start(state, missing))
            except BaseException:
                say("ending the processes that were started")
                now = self.file.load() or state  # the file has every process that was started
                end_roles(now, [role for role in ROLES if now.processes.get(role) != before.processes.get(role)])
                if fresh:
                    end_everything(now)
                    self.file.forget()
                raise

    def down(self, say: Say) -> int:
        """End every process of this home's stack, also of one whose record is lost. Returns how many there were."""
        with self.file.lock():
            try:
                state = self.file.load()
            except StackError as error:
                say(str(error))
                state = None
            known = {state.id: state} if state is not None else {}
            lost = {id: StackState(id=id) for id in stacks_of_home(self.folders.home) - known.keys()}
            count = sum(end_everything(found) for found in (known | lost).values())
            if known or lost:
                prune_sessions(self.folders.ray)
            self.file.forget()
            if count:
                say(f"ended {count} processes")
            return count

    def status(self) -> list[RoleStatus]:
        """The state of each role; [] if there is no stack. Raises StackError if there is one that is not recorded."""
        state = self.file.load()
        if state is None:
            self._refuse_unrecorded("")
            return []
        rows = []
        for role in ROLES:
            record, process = state.processes.get(role), living(state, role)
            if process is None:
                installed = ROLES[role].wanted()
                condition = ("dead" if record else "not started") if installed else "not installed"
            else:
                condition = "ready" if ROLES[role].ready(self.folders, state) else "not answering"
                if ROLES[role].broken(state):
                    condition = "broken"
            pid, url = (process.pid, ROLES[role].url(state)) if process else (None, "")
            log = record.log if record else ""
            rows.append(RoleStatus(role, ROLES[role].title, pid, condition, url, log, ROLES[role].needed))
        return rows

    def require(self) -> StackState:
        """The state of this project's stack. Raises StackError if a role that runs need is not alive."""
        state = self.file.load()
        needed = [role for role in ROLES if ROLES[role].needed]
        dead = needed if state is None else [role for role in needed if living(state, role) is None]
        if state is None or dead:
            problem = "is not up" if state is None else "lacks its " + ", ".join(ROLES[role].title for role in dead)
            raise StackError(f"the local stack in {self.folders.home} {problem}; start it with 'agevlm up'")
        self._refuse_other_project(state)
        return state

    def process_environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """The environment of a new process that uses this project, and the stack where one is recorded."""
        return environment.process_environment(self.folders, self.file.load(), extra)

    def shell_lines(self) -> str:
        """The lines of `agevlm env`. Raises StackError if the stack is not up."""
        return environment.shell_lines(self.folders, self.require())

    def api(self, state: StackState) -> Server:
        """The REST API of its Prefect server."""
        return prefect_api(self.folders, state)

    def secret(self) -> str:
        """The secret that the servers ask for; '' if there is none yet."""
        return read_secret(self.folders)

    def secret_hint(self) -> str:
        """A few words on how to read the secret that the servers' pages ask for."""
        return secret_hint(self.folders)

    def _to_replace(self, role: str, state: StackState) -> bool:
        """True if the living process of a role is replaced by `up`: it cannot work again, or no run loses by it."""
        return ROLES[role].broken(state) or not (ROLES[role].needed or ROLES[role].ready(self.folders, state))

    # -- for the owner only

    @contextmanager
    def _private_home(self, say: Say) -> Iterator[None]:
        """Keep the home and all that is in it for its owner, before the block and after it.

        An earlier version, or a copy, may have left other modes; and Ray opens its folders to all users when it starts.
        """
        remedy = "set AGEVLM_HOME to a folder of your own"
        own_folder(self.folders.home, remedy)
        changed = mend(self.folders.home, self.folders.umask)
        if changed:
            say(f"{changed} files and folders in {self.folders.home} were open to other users: they are yours only now")
        yield
        mend(self.folders.ray.parent, self.folders.umask)

    def _require_secret(self, state: StackState, say: Say) -> None:
        """Make the secret, or write again the one that living servers ask for. Raises StackError if it is unusable."""
        name = "PREFECT_API_AUTH_STRING"
        known = [environment_of(process).get(name, "") for process in family(state)] if state.processes else []
        secret = next((text for text in known if text), "")
        if make_secret(self.folders.secret, secret) and secret:
            say(f"the file {self.folders.secret} was gone: written again, with the secret of the running servers")

    # -- refusals

    def _refuse_unrecorded(self, recorded_id: str) -> None:
        """Raise StackError if another stack lives in this home: both would use the same database."""
        if stacks_of_home(self.folders.home) - {recorded_id}:
            raise StackError(
                f"processes of a stack live in {self.folders.home}, but no file records them; "
                "end them with 'agevlm down'"
            )

    def _refuse_other_project(self, state: StackState) -> None:
        """Raise StackError if another project started this stack: its worker imports that project's flows."""
        project = str(self.folders.project)
        if state.root not in ("", project):
            raise StackError(
                f"the stack in {self.folders.home} belongs to the project in {state.root}, but this is {project}: "
                "'unset AGEVLM_HOME AGEVLM_STORE' to have a separate stack here, or end that one with 'agevlm down'"
            )
