"""Progress of a running step: a small JSON object in the store, and a line in the job's log."""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from pipeline.artifacts.manifest import plural
from pipeline.artifacts.store import ArtifactStore

WRITE_SECONDS = 0.5
PRINT_SECONDS = 5.0
RECENT_SECONDS = 120.0
"""The time left follows from the speed of the last seconds, so that it is right after a pause or a resume too."""
FEWEST_MARKS = 3
"""Changes of `done` that the speed is measured over, if they are further apart than RECENT_SECONDS."""


def progress_path(artifact_id: str) -> str:
    """Path of the progress file of the step that makes an artifact, relative to the store's root."""
    return f"progress/{artifact_id}.json"


class Speed:
    """The recent speed of a count. Work that was done before the first call counts for nothing."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def seconds_left(self, now: float, done: int, total: int) -> float | None:
        """Seconds until `total` is reached at the recent speed; None before anything was done."""
        rate = self.per_second(now, done)
        return None if rate is None else max(0, total - done) / rate

    def per_second(self, now: float, done: int) -> float | None:
        """The recent speed in units a second; None before anything was done.

        now: seconds on any clock that goes steadily.
        """
        marks = self._marks
        if not marks or (done > marks[-1][1] and now - marks[-1][0] >= WRITE_SECONDS):
            marks.append((now, done))
        while len(marks) > FEWEST_MARKS and now - marks[1][0] > RECENT_SECONDS:
            marks.popleft()
        first, start = marks[0]
        if done <= start or now <= first:
            return None
        return (done - start) / (now - first)


class ProgressWatcher(Protocol):
    """Gets what a step reports, for example to set metrics."""

    def begin(self) -> None:
        """The step has begun its work."""

    def progress(self, done: int, total: int, per_second: float | None, seconds_left: float | None) -> None:
        """Take the progress of the step; called at most twice a second."""

    def rejects(self, counts: Mapping[str, int]) -> None:
        """The rejected units so far, by reason."""


class Progress:
    """Reports how far a step is. Cheap enough to call for every row or batch."""

    def __init__(
        self, store: ArtifactStore, artifact_id: str, unit: str, watcher: ProgressWatcher | None = None
    ) -> None:
        self._watcher = watcher
        self._store, self._path, self._unit = store, progress_path(artifact_id), unit
        self._started = time.monotonic()
        self._written = self._printed = float("-inf")
        self._speed = Speed()
        self.note = ""
        """A sentence for people, e.g. a warning; '' for nothing. Every later update carries it."""

    def update(self, done: int, total: int, **values: float) -> None:
        """Report that `done` of `total` units are done, with current values such as the loss."""
        now = time.monotonic()
        rate = self._speed.per_second(now, done)
        left = None if rate is None else max(0, total - done) / rate
        last = done >= total
        due = last or now - self._written >= WRITE_SECONDS
        state: dict[str, Any] = {"done": done, "total": total, "unit": self._unit, "values": values}
        if left is not None and not last:
            state["seconds_left"] = round(left, 1)
        if self.note:
            state["note"] = self.note
        if due:
            self._write({**state, "seconds": round(now - self._started, 1)})
            self._written = now
            if self._watcher is not None:
                self._watcher.progress(done, total, rate, left)
        if last or now - self._printed >= PRINT_SECONDS:
            print(progress_text(state), flush=True)
            self._printed = now

    def begin(self) -> None:
        """Tell the watcher that the work begins; for a step whose units another process reports."""
        if self._watcher is not None:
            self._watcher.begin()

    def rejects(self, counts: Mapping[str, int]) -> None:
        """Tell the watcher of the rejected units so far, by reason."""
        if self._watcher is not None:
            self._watcher.rejects(counts)

    def _write(self, state: dict[str, Any]) -> None:
        """Replace the file. A store that fails now must not end the step: its commits have their own patience."""
        try:
            self._store.write_json(self._path, state)
        except OSError as error:
            print(f"the progress in {self._path} cannot be written: {error}", flush=True)


def read_progress(store: ArtifactStore, artifact_id: str) -> dict[str, Any] | None:
    """The latest progress of a step, or None if it has not reported any."""
    value = store.read_json(progress_path(artifact_id))
    return value if isinstance(value, dict) else None


def progress_text(state: dict[str, Any] | None) -> str:
    """A step's progress in words, '96/240 queries  12 min left  loss 1.23  warning: ...'; '' if there is none."""
    if not state:
        return ""
    parts = [f"{state.get('done', 0)}/{state.get('total', 0)} {plural(str(state.get('unit') or 'row'))}"]
    if state.get("seconds_left") is not None:
        parts.append(f"{time_text(float(state['seconds_left']))} left")
    parts += [f"{name} {_number(value)}" for name, value in (state.get("values") or {}).items()]
    if state.get("note"):
        parts.append(f"warning: {state['note']}")
    return "  ".join(parts)


def time_text(seconds: float) -> str:
    """An estimated time: '40 s', '12 min', '3 h 20 min', '2 d 5 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
