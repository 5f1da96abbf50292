"""A role: one kind of process of the stack, and all that the stack knows about it."""

from collections.abc import Callable
from dataclasses import dataclass

from infra.local.folders import Folders
from infra.local.ports import free_ports, is_free
from infra.local.stack_file import ProcessRecord, StackState


@dataclass(frozen=True)
class Role:
    """One row of the table of roles."""

    name: str
    title: str
    """Name for people."""
    start: Callable[[Folders, StackState], ProcessRecord]
    """Starts its process; its ports must be chosen already."""
    ready: Callable[[Folders, StackState], bool]
    """True if it does its work."""
    ports: tuple[str, ...] = ()
    """Names of the ports that are chosen and recorded for it."""
    page: str = ""
    """Name of the port of its web page; '' if it has none."""
    start_seconds: float = 120.0
    """Time until it must be ready."""
    attempts: int = 1
    """Starts before `up` fails. Another process may take a server's port before the server starts."""
    grace: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    broken: Callable[[StackState], bool] = lambda _: False
    """True if its process lives but cannot work again."""
    reason: Callable[[Folders], str] = lambda _: ""
    """Lines from its own log files that say why it ended; '' if there are none."""
    wanted: Callable[[], bool] = lambda: True
    """False if its program is not installed: the stack then works without it."""
    needed: bool = True
    """True if no run can work without it."""

    def with_ports(self, state: StackState) -> StackState:
        """The state with its ports. Recorded ports are kept if they are free, so that addresses stay the same."""
        if all(name in state.ports and is_free(state.ports[name]) for name in self.ports):
            return state
        found = dict(zip(self.ports, free_ports(len(self.ports)), strict=True))
        return state.model_copy(update={"ports": {**state.ports, **found}})

    def url(self, state: StackState) -> str:
        """Address of its web page, or '' if it has none."""
        return state.url(self.page) if self.page else ""
