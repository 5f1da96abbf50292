"""The metrics that every step has: units done, speed, time left, rejects by reason. Sets them where Ray is connected.

The driver of a short step never connects to Ray, which takes a second or two: then nothing is set. A step that goes on
for longer joins the cluster of its job for its metrics alone.
"""

import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.compute import session

if TYPE_CHECKING:
    from pipeline.compute.gauges import Gauges

JOIN_SECONDS = 20.0
"""Age of a step at which its driver joins the cluster, if it has not done so for its work."""


def connected() -> bool:
    """True if this process is connected to Ray. Does not import it."""
    is_initialized = getattr(sys.modules.get("ray"), "is_initialized", None)
    return bool(is_initialized is not None and is_initialized())


class StepGauges:
    """Watches the progress of one step. An error of Ray's metrics ends the metrics and not the step.

    Args:
        tags: of all its metrics.
        unit: what the step counts.
        waited: seconds between the submission of its job and its start, if they are known.
    """

    def __init__(self, tags: Mapping[str, str], unit: str, waited: float | None = None) -> None:
        self._tags, self._unit, self._waited = dict(tags), unit, waited
        self._started = time.monotonic()
        self._gauges: Gauges | None = None
        self._failed = False

    def begin(self) -> None:
        """Set what is known before any unit is done."""
        self._set({})

    def progress(self, done: int, total: int, per_second: float | None, seconds_left: float | None) -> None:
        """Set how far the step is."""
        values: dict[str, float | None] = {
            "done": done,
            "total": total,
            "per_second": per_second,
            "seconds_left": seconds_left,
        }
        self._set({name: value for name, value in values.items() if value is not None})

    def rejects(self, counts: Mapping[str, int]) -> None:
        """Set the rejected units so far, by reason."""
        self._set({"rejected": sum(counts.values())})
        for reason, count in counts.items():
            self._set({"rejects": count}, reason=reason)

    def _set(self, values: Mapping[str, float], **more: str) -> None:
        if self._failed:
            return
        try:
            if self._gauges is None and not self._open():
                return
            assert self._gauges is not None
            self._gauges.set(values, unit=self._unit, **more)
        except Exception as error:  # of many types; metrics must not end a step
            self._failed = True
            print(f"this step has no more metrics: {type(error).__name__}: {error}", flush=True)

    def _open(self) -> bool:
        """Make the gauges if Ray is connected, or join the job's cluster if that is due. Returns True if they exist."""
        if not connected():
            # Ray must be started by the main thread: it handles signals.
            due = time.monotonic() - self._started >= JOIN_SECONDS
            if not (due and session.in_job() and threading.current_thread() is threading.main_thread()):
                return False
            session.connect()
        from pipeline.compute.gauges import Gauges

        self._gauges = Gauges("step", self._tags)
        if self._waited is not None:
            self._gauges.set({"start_seconds": self._waited})
        return True
