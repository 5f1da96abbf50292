"""Progress of a running step: a small JSON object in the store, and a line in the job's log."""

import time
from typing import Any

from pipeline.artifacts.manifest import plural
from pipeline.artifacts.store import ArtifactStore

WRITE_SECONDS = 0.5
PRINT_SECONDS = 5.0


def progress_path(artifact_id: str) -> str:
    """Path of the progress file of the step that makes an artifact, relative to the store's root."""
    return f"progress/{artifact_id}.json"


class Progress:
    """Reports how far a step is. Cheap enough to call for every row or batch."""

    def __init__(self, store: ArtifactStore, artifact_id: str, unit: str) -> None:
        self._store, self._path, self._unit = store, progress_path(artifact_id), unit
        self._started = time.monotonic()
        self._written = self._printed = float("-inf")

    def update(self, done: int, total: int, **values: float) -> None:
        """Report that `done` of `total` units are done, with current values such as the loss."""
        now = time.monotonic()
        last = done >= total
        if last or now - self._written >= WRITE_SECONDS:
            state: dict[str, Any] = {"done": done, "total": total, "unit": self._unit, "values": values}
            self._store.write_json(self._path, {**state, "seconds": round(now - self._started, 1)})
            self._written = now
        if last or now - self._printed >= PRINT_SECONDS:
            print(progress_text({"done": done, "total": total, "unit": self._unit, "values": values}), flush=True)
            self._printed = now


def read_progress(store: ArtifactStore, artifact_id: str) -> dict[str, Any] | None:
    """The latest progress of a step, or None if it has not reported any."""
    value = store.read_json(progress_path(artifact_id))
    return value if isinstance(value, dict) else None


def progress_text(state: dict[str, Any] | None) -> str:
    """A step's progress in words, '96/240 queries  loss 1.23'; '' if there is none."""
    if not state:
        return ""
    values = "".join(f"  {name} {value:.4g}" for name, value in (state.get("values") or {}).items())
    return f"{state.get('done', 0)}/{state.get('total', 0)} {plural(str(state.get('unit') or 'row'))}{values}"
