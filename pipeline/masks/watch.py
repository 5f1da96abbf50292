"""Progress of the step segment: in the log and the store, as Ray metrics, and its speed for the artifact."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from pipeline.artifacts.progress import Progress, Speed
from pipeline.artifacts.shards import Seal

SPEED_NOTE = (
    "model_share: seconds in the teacher's phases / seconds of the actors. The latter go from the end of an actor's "
    "shard before (or its first call) to the end of each shard, with waiting, reading and committing. So it is the "
    "ratio to the bare models, if these compute as fast elsewhere as in the actors. Shards of earlier runs count in "
    "all but images_per_second, which is of the last run, from Ray's start to the last commit."
)


class Watch:
    """Counts the shards of a step as they are committed.

    Args:
        progress: where the step reports.
        total: queries of the step.
        earlier: commits of earlier runs.
    """

    def __init__(self, progress: Progress, total: int, earlier: Iterable[Seal]) -> None:
        self._progress, self.total = progress, total
        self._done = self._shards = self._images = 0
        self._rejects = Counter[str]()
        self._seconds = Counter[str]()
        for seal in earlier:
            self._count(seal)
        self._earlier_images = self._images
        self._speed, self._started = Speed(), time.monotonic()
        self._last = self._started
        self.gauges: Callable[[Mapping[str, float]], None] | None = None
        """Sets Ray's gauges: the group 'segment' of the table of metrics."""
        self._report()

    def add(self, seal: Seal) -> None:
        """Count and report a shard of this run."""
        self._count(seal)
        self._last = time.monotonic()
        self._report()

    def speed(self) -> bytes:
        """The figures of the step's speed as JSON."""
        ran, computed = self._last - self._started, self._images - self._earlier_images
        figures = {
            "images_per_second": round(computed / ran, 3) if computed else None,
            "images_computed": computed,
            "images": self._images,
            "seconds": {name: round(value, 3) for name, value in sorted(self._seconds.items())},
            "model_share": _share(self._seconds),
            "about": SPEED_NOTE,
        }
        return json.dumps(figures, indent=1, sort_keys=True).encode()

    def _count(self, seal: Seal) -> None:
        """Add a shard to the sums: a step has thousands of shards, so nothing is summed again for each."""
        self._shards += 1
        self._done += seal.rows
        self._rejects.update(reason for _, reason, _ in seal.facts["rejects"])
        self._images += int(seal.facts.get("images", 0))
        # seconds by kind: 'decode', 'models', 'actors' (pipeline.masks.actors.Figures)
        self._seconds.update(seal.facts.get("seconds", {}))

    def _report(self) -> None:
        now = time.monotonic()
        rate = self._speed.per_second(now, self._done)
        values: dict[str, float] = {"rejects": self._rejects.total()}
        if rate is not None:
            values["rows_per_second"] = rate
        self._progress.update(self._done, self.total, **values)
        self._progress.rejects(self._rejects)
        if self.gauges is not None:
            more: dict[str, float] = {"images_done": self._images, "shards_done": self._shards}
            share = _share(self._seconds)
            more |= {} if share is None else {"model_share": share}
            self.gauges({**values, **more})


def _share(sums: Mapping[str, float]) -> float | None:
    return round(sums["models"] / sums["actors"], 4) if sums.get("actors") else None
