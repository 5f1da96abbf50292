"""The event log of a flow run: one JSON line for each thing that happened, for scripts that follow a run.

It lies beside the run file, as `runs/<flow run id>.events.jsonl`. A local file is appended to; an object store has no
append, so there the whole small object is written again.
"""

import json
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts.store import ArtifactStore


def events_path(flow_run_id: str) -> str:
    """The path of a run's event log, relative to the store's root."""
    return f"runs/{flow_run_id}.events.jsonl"


class EventLog:
    """Appends the events of one flow run; shared by its threads."""

    def __init__(self, store: ArtifactStore, flow_run_id: str) -> None:
        self._store, self._path = store, events_path(flow_run_id)
        self._lock = threading.Lock()

    def write(self, event: str, step: str | None = None, **facts: Any) -> None:
        """Append one event.

        Args:
            event: its name, e.g. 'start', 'retry', 'join', 'publish'.
            step: key of the step that it is about.
            facts: JSON values.
        """
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        line |= {} if step is None else {"step": step}
        content = (json.dumps({**line, **facts}) + "\n").encode()
        path = self._store.join(self._path)
        with self._lock:
            if self._store.is_local:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                with open(path, "ab") as stream:
                    stream.write(content)
                return
            with suppress(FileNotFoundError):
                content = self._store.fs.cat_file(path) + content
            self._store.fs.pipe_file(path, content)
