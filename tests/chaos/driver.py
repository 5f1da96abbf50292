"""A step's driver, `python -m pipeline run`, that is killed and started again. Only its own processes are looked at."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from random import Random

import psutil

from pipeline.artifacts.paths import PROJECT
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.job import JobSpec

STARTS = 20  # of one driver before this program gives up
GRACE = 20.0  # seconds for the descendants of a dead driver to end, by default


class Driver:
    """The driver of one step: it is started again when it dies.

    Args:
        job: the step.
        log: file for its output.
        targets: name of a target -> text in the command line of a descendant of the driver; '' is the driver itself.
        command: the program that runs the step; the path of its spec is added.
        environment: the program's environment; None for this process's.
        grace: seconds for the descendants of a dead driver to end.
    """

    def __init__(
        self,
        job: JobSpec,
        log: Path,
        targets: Mapping[str, str],
        command: Sequence[str] = ("-m", "pipeline", "run"),
        environment: Mapping[str, str] | None = None,
        grace: float = GRACE,
    ) -> None:
        self._grace = grace
        self.job, self._log, self._targets = job, log, targets
        self._command, self._environment = command, environment
        self._store = ArtifactStore(job.locations.root)
        self._spec = log.with_suffix(".json")
        self._spec.write_text(job.model_dump_json())
        self._process: psutil.Popen | None = None
        self._known: set[psutil.Process] = set()
        self.starts = 0

    def start(self) -> None:
        """Start the driver. Raises RuntimeError after too many starts."""
        self.starts += 1
        if self.starts > STARTS:
            raise RuntimeError(f"{self.job.key} was started {STARTS} times; see {self._log}")
        self.end_family()
        with self._log.open("ab") as log:
            self._process = psutil.Popen(
                [sys.executable, *self._command, str(self._spec)],
                cwd=PROJECT,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=None if self._environment is None else dict(self._environment),
            )

    @property
    def alive(self) -> bool:
        """True while the driver runs."""
        return self._process is not None and self._process.poll() is None

    def family(self) -> list[psutil.Process]:
        """The driver and its descendants."""
        if self._process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            family = [self._process, *self._process.children(recursive=True)]
            self._known.update(family)
            return family
        return []

    def end(self) -> None:
        """Wait for the driver's own end, after its artifact is published."""
        self.family()
        if self._process is not None:
            with suppress(psutil.Error):
                self._process.wait(60)
        self.end_family()

    def end_family(self) -> None:
        """Wait for the end of all processes that a dead driver left, then kill those that still run."""
        _, left = psutil.wait_procs(self._known, timeout=self._grace)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        self._known.clear()

    def find(self, target: str) -> psutil.Process | None:
        """A process of this target; None if there is none now."""
        text, own = self._targets[target], -1 if self._process is None else self._process.pid
        for process in self.family():
            with suppress(psutil.Error):
                if process.pid == own if not text else text in " ".join(process.cmdline()):
                    return process
        return None

    def published(self) -> bool:
        """True once the step has its artifact."""
        return self._store.get(self.job.ref) is not None

    def text(self) -> str:
        """The output so far."""
        return self._log.read_text(errors="replace")


def dealt(chance: Random, targets: Mapping[str, str]) -> Iterator[str]:
    """The targets in random order, each once before one comes again."""
    while True:
        names = list(targets)
        chance.shuffle(names)
        yield from names


class Deal:
    """Targets in random order, each hit once before one comes again; one that is not there now waits for the others."""

    def __init__(self, chance: Random, targets: Mapping[str, str]) -> None:
        self._dealt, self._count = dealt(chance, targets), len(targets)
        self._left = list(islice(self._dealt, self._count))
        self.hits: Counter[str] = Counter()

    @property
    def target(self) -> str:
        """The next target."""
        return self._left[0]

    def hit(self) -> None:
        """Count the target as killed and go on to the next."""
        self.hits[self._left.pop(0)] += 1
        self._left = self._left or list(islice(self._dealt, self._count))

    def postpone(self) -> None:
        """Try the others of this round first."""
        self._left.append(self._left.pop(0))
