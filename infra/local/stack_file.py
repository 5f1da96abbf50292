"""The record of a running stack: `stack.json` in the home folder."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

LOOPBACK, ANY_ADDRESS = "127.0.0.1", "0.0.0.0"
PAGES = ("prefect", "ray_dashboard")
"""Names of the ports that listen on the stack's `host`. They ask for the secret. All others listen on loopback."""


class StackError(Exception):
    """The local stack cannot do what was asked. The command line prints the message without a traceback."""


class Record(BaseModel):
    """Base of the recorded models: unknown fields are ignored, so that `down` ends the stack of another version too."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ProcessRecord(Record):
    """One process that the stack started; its descendants are found from it."""

    role: str
    pid: int
    created: float = Field(description="start of the process, seconds since 1970: a reused pid has another")
    log: str
    command: list[str]


class StackState(Record):
    """A stack: the processes that were started, and the ports that they listen on."""

    id: str = Field(description="random; every process of the stack carries it in its environment")
    ports: dict[str, int] = Field(default_factory=dict)
    processes: dict[str, ProcessRecord] = Field(default_factory=dict)
    root: str = Field(default="", description="folder of the project that its flows are imported from")
    store: str = Field(default="", description="root of the artifact store that its flows work on")
    cpus: int = Field(default=0, description="logical CPUs given to Ray")
    worker: str = Field(default="", description="name of the Prefect worker")
    host: str = Field(default=LOOPBACK, description="address that the pages of Prefect and Ray listen on")

    def with_process(self, record: ProcessRecord) -> "StackState":
        """The state with this process in its role."""
        return self.model_copy(update={"processes": {**self.processes, record.role: record}})

    def url(self, port: str) -> str:
        """Address of one of the stack's servers, for this machine."""
        open_to_others = port in PAGES and self.host != ANY_ADDRESS
        return f"http://{self.host if open_to_others else LOOPBACK}:{self.ports[port]}"


@dataclass(frozen=True)
class StackFile:
    """Reads and writes the record."""

    path: Path
    write_text: Callable[[Path, str], None]
    """Replaces a text file as a whole: a reader sees the old text or the new one, even after a kill."""

    def load(self) -> StackState | None:
        """The recorded state, or None if no stack was started. Raises StackError if the file is damaged."""
        try:
            return StackState.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            reason = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
            raise StackError(f"{self.path} is damaged ({reason}); 'agevlm down' ends its stack all the same") from error

    def save(self, state: StackState) -> None:
        """Replace the record."""
        self.write_text(self.path, state.model_dump_json(indent=1))

    def forget(self) -> None:
        """Remove the record of a stack that has ended."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let only one `up` or `down` run at a time. Raises StackError if another one is running."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "a", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StackError(
                    f"another 'agevlm up' or 'agevlm down' is running in {self.path.parent}; wait until it is done"
                ) from error
            yield
