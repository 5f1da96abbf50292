"""The event log of a flow run: one JSON line for each thing that happened, for scripts that follow a run.

On a local store it is the file `runs/<flow run id>.events.jsonl`. The flow process, its hooks and the command line may
write at once, so each event is one write to a file that is open for appending. An object store has no append, and two
writers of one object would lose lines; there each event is an object `runs/<flow run id>.events/<time>-<random>.json`.
"""

import errno
import json
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts.filesystem import read_each
from pipeline.artifacts.spec import parsed
from pipeline.artifacts.store import ArtifactStore

SECRET_NAME = re.compile(r"(SECRET|PASSWORD|TOKEN|AUTH_STRING|ACCESS_KEY|API_KEY)")
NOT_SECRET = re.compile(r"(_PATH|_FILE|_ID|_MODE)$")
IN_URL = re.compile(r"(?<=://)[^/\s@\"]+(?=@)")
HIDDEN = "***"
SHORTEST = 8
"""Characters of a secret, at least: a shorter value would hide ordinary words."""
POLL_SECONDS, REMOTE_POLL_SECONDS = 0.5, 2.0


def events_path(flow_run_id: str) -> str:
    """The path of a run's event log, relative to the root of a local store."""
    return f"runs/{flow_run_id}.events.jsonl"


def events_folder(flow_run_id: str) -> str:
    """The path of the folder of a run's events, relative to the root of an object store."""
    return f"runs/{flow_run_id}.events"


class EventLog:
    """Appends the events of one flow run; shared by its threads, and by other processes."""

    def __init__(self, store: ArtifactStore, flow_run_id: str) -> None:
        self._store, self._flow_run_id = store, flow_run_id
        self._lock = threading.Lock()

    def write(self, event: str, step: str | None = None, **facts: Any) -> None:
        """Append one event. If the store refuses it, that is logged: an event must not fail a step.

        Args:
            event: its name, a row of `events.EVENTS`.
            step: key of the step that it is about.
            facts: JSON values. Values of this process's secret variables, and passwords in URLs, are not written.
        """
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        line |= {} if step is None else {"step": step}
        content = (json.dumps(_without_secrets({**line, **facts}, _secrets())) + "\n").encode()
        try:
            with self._lock:
                self._append(content)
        except Exception as error:  # the library of an object store raises errors of many types
            logging.getLogger("agevlm.events").warning("the event '%s' was not written: %s", event, error)

    def _append(self, content: bytes) -> None:
        if not self._store.is_local:
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
            self._store.fs.pipe_file(self._store.join(events_folder(self._flow_run_id), name), content)
            return
        path = Path(self._store.join(events_path(self._flow_run_id)))
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_torn(
            path
        ):  # a writer was killed within its line, or the disk was full: this line must not be joined to it
            content = b"\n" + content
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(descriptor, content) < len(content):  # one call: lines of several processes are never mixed
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        finally:
            os.close(descriptor)


def read_events(store: ArtifactStore, flow_run_id: str) -> list[dict[str, Any]]:
    """The events of a run, in the order of writing; none if it has no log. A torn line is left out."""
    return _new_events(store, flow_run_id, {})


def follow_events(
    store: ArtifactStore, flow_run_id: str, is_over: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, Any]]:
    """The events of a run as they are written, until 'run_end', if the run did not start again after it.

    `is_over` tells if the run is over, for a log whose last event could not be written. It is asked when nothing new
    comes; events that were written meanwhile still follow.
    """
    known: dict[Any, dict[str, Any]] = {}
    ended = False
    while True:
        new = _new_events(store, flow_run_id, known)
        yield from new
        marks = [name for key in sorted(known) if (name := known[key].get("event")) in ("run_start", "run_end")]
        if marks[-1:] == ["run_end"] or (ended and not new):
            return
        ended = not new and is_over()
        time.sleep(POLL_SECONDS if store.is_local else REMOTE_POLL_SECONDS)


def _new_events(store: ArtifactStore, flow_run_id: str, known: dict[Any, dict[str, Any]]) -> list[dict[str, Any]]:
    """The events that `known` does not have, which are added to it: by line, or by path on an object store.

    Not by their number: of two machines whose clocks differ, one writes objects that sort before earlier ones.
    """
    if store.is_local:
        try:
            content = Path(store.join(events_path(flow_run_id))).read_bytes()
        except FileNotFoundError:
            return []
        found: dict[Any, bytes] = {n: line for n, line in enumerate(content.split(b"\n")) if n not in known}
    else:
        try:
            paths = sorted(str(path) for path in store.fs.ls(store.join(events_folder(flow_run_id)), detail=False))
        except FileNotFoundError:
            return []
        found = {**read_each(store.fs, [path for path in paths if path not in known])}
    new = {key: event for key in sorted(found) if (event := _parsed(found[key])) is not None}
    known |= new
    return list(new.values())


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = parsed(line)
    except ValueError:  # empty, or torn
        return None
    return event if isinstance(event, dict) else None


def _is_torn(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            if stream.seek(0, os.SEEK_END) == 0:
                return False
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) != b"\n"
    except FileNotFoundError:
        return False


def _secrets(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Values of the variables whose names say that they are secret, the longest first."""
    found = {
        value
        for name, value in environment.items()
        if SECRET_NAME.search(name.upper()) and not NOT_SECRET.search(name.upper()) and len(value) >= SHORTEST
    }
    # Prefect's auth string is USER:PASSWORD, and its second part is the secret of Ray's server too.
    found |= {part for value in found for part in value.split(":") if len(part) >= SHORTEST}
    return sorted(found, key=len, reverse=True)


def _without_secrets(value: Any, secrets: list[str]) -> Any:
    """A JSON value in which secrets are replaced by '***'."""
    if isinstance(value, dict):
        return {_without_secrets(name, secrets): _without_secrets(item, secrets) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item, secrets) for item in value]
    if not isinstance(value, str):
        return value
    for secret in secrets:
        value = value.replace(secret, HIDDEN)
    return IN_URL.sub(HIDDEN, value)
