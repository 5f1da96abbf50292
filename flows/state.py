"""What is recorded of a running stack: `stack.json` in the home folder."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ConfigDict, Field

from flows.home import home, store_root
from model.errors import AgevlmError, ConfigError
from pipeline.config import Config, validate

ROLES = ("prefect", "ray", "worker")
"""The processes of the stack, in the order in which they start."""


class StackError(AgevlmError):
    """The local stack cannot do what was asked of it."""


class ProcessRecord(Config):
    """One process that the stack started; its descendants are found from it."""

    model_config = ConfigDict(extra="ignore")  # what another version recorded must not keep `down` from ending it

    role: str
    pid: int
    created: float = Field(description="when the process began, seconds since 1970: a reused pid has another")
    log: str
    command: list[str]


class StackState(Config):
    """A stack: which processes were started, and where they listen."""

    model_config = ConfigDict(extra="ignore")

    id: str = Field(description="random; every process of the stack carries it in its environment")
    ports: dict[str, int] = Field(default_factory=dict)
    processes: dict[str, ProcessRecord] = Field(default_factory=dict)
    root: str = Field(default="", description="folder of the project that its flows are imported from")
    store: str = Field(default="", description="root of the artifact store that its flows work on")
    cpus: int = Field(default=0, description="logical CPUs given to Ray")
    worker: str = Field(default="", description="name of the Prefect worker")

    def with_process(self, record: ProcessRecord) -> "StackState":
        """The state with one more (or another) process."""
        return self.model_copy(update={"processes": {**self.processes, record.role: record}})

    def url(self, port: str) -> str:
        """Address of one of the stack's servers."""
        return f"http://127.0.0.1:{self.ports[port]}"


def state_file() -> Path:
    """Where the state is recorded."""
    return home() / "stack.json"


def load() -> StackState | None:
    """The recorded state, or None if no stack was started. Raises StackError if the file is damaged."""
    try:
        text = state_file().read_text(encoding="utf-8")
        return validate(StackState, json.loads(text), str(state_file()))
    except FileNotFoundError:
        return None
    except (ValueError, ConfigError) as error:  # ValueError: not UTF-8, or not JSON
        raise StackError(f"{state_file()} is damaged ({error}); 'agevlm down' ends its stack all the same") from error


def store_in_use() -> str:
    """The store that commands work on: `$AGEVLM_STORE`, else that of the stack that is up, else the home folder's."""
    state = None if os.environ.get("AGEVLM_STORE") else load()
    return (state.store if state is not None else "") or store_root()


def save(state: StackState) -> None:
    """Record the state, atomically."""
    path = state_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(state.model_dump(mode="json"), indent=1), encoding="utf-8")
    os.replace(partial, path)


def forget() -> None:
    """Remove the record of a stack that has ended."""
    state_file().unlink(missing_ok=True)


@contextmanager
def lock() -> Iterator[None]:
    """Only one `up` or `down` at a time. Raises StackError if another one is at work."""
    home().mkdir(parents=True, exist_ok=True)
    with open(home() / "stack.lock", "a", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StackError(
                f"another 'agevlm up' or 'agevlm down' is at work in {home()}; wait until it is done"
            ) from error
        yield
