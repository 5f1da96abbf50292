"""CPU time and memory of a process and of all processes below it, sampled while it runs. For benchmarks."""

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

import psutil

PERIOD = 0.25  # seconds between samples


@dataclass(frozen=True)
class Use:
    """The use of one process up to now."""

    name: str
    cpu: float
    """Seconds, of all its threads."""
    rss: int
    """Resident bytes."""


@dataclass
class ProcessTree:
    """Samples of a process tree, by time (`time.time()`). A process that ended keeps its last CPU time."""

    pid: int
    period: float = PERIOD
    samples: list[tuple[float, dict[int, Use]]] = field(default_factory=list)

    def __enter__(self) -> "ProcessTree":
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def cpu(self, start: float, end: float) -> dict[str, float]:
        """CPU seconds between two times by the name of a process; between samples in proportion."""
        first, last = self._cpu_at(start), self._cpu_at(end)
        names = {pid: use.name for when, uses in self.samples for pid, use in uses.items() if when <= end + self.period}
        found: dict[str, float] = {}
        for pid, cpu in last.items():  # by process, because Ray changes the names of its workers
            found[names[pid]] = found.get(names[pid], 0.0) + cpu - first.get(pid, 0.0)
        return found

    def _cpu_at(self, when: float) -> dict[int, float]:
        """CPU seconds of each process up to a time."""
        later = next((i for i, (sampled, _) in enumerate(self.samples) if sampled >= when), len(self.samples) - 1)
        (start, before), (end, after) = self.samples[max(0, later - 1)], self.samples[later]
        share = min(1.0, max(0.0, (when - start) / (end - start))) if end > start else 1.0
        old = {pid: before[pid].cpu if pid in before else 0.0 for pid in after}
        return {pid: old[pid] + share * (use.cpu - old[pid]) for pid, use in after.items()}

    def rss(self, name: str) -> list[tuple[float, int]]:
        """Time and resident bytes of all running processes whose name contains `name`, added up."""
        return [
            (when, sum(use.rss for use in found.values() if name in use.name and use.rss))
            for when, found in self.samples
        ]

    def _watch(self) -> None:
        known: dict[int, Use] = {}
        while not self._end.wait(self.period):
            known = {pid: Use(use.name, use.cpu, 0) for pid, use in known.items()}
            try:
                top = psutil.Process(self.pid)
                found = [top, *top.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for process in found:
                use = _use(process, "driver" if process.pid == self.pid else "")
                if use is not None:
                    known[process.pid] = use
            self.samples.append((time.time(), known))


def _use(process: psutil.Process, name: str) -> Use | None:
    try:
        with process.oneshot():
            times, command = process.cpu_times(), process.cmdline()
            title = name or (command[0].split("/")[-1] if command else process.name())
            return Use(title, times.user + times.system, process.memory_info().rss)
    except psutil.Error:
        return None  # it ended in this moment
