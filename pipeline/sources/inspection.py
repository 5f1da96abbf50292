"""Opening the images of many records at once: in parallel, in order, in bounded memory, a repeated image once."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline import ray_session
from pipeline.sources.images import ImageFacts, inspect_images
from pipeline.sources.index import Index, image_key
from pipeline.sources.records import Entry, Record

BATCH = 128  # records whose images one task opens
RAY_FROM = 4000  # records; below, threads of this process are done before Ray's workers have started


class Opener(Protocol):
    """Something that opens batches of images elsewhere."""

    @property
    def width(self) -> int:
        """Batches worth having under way at once."""
        ...

    def submit(self, root: Path, references: list[str]) -> Any:
        """Start a batch."""
        ...

    def result(self, handle: Any) -> list[ImageFacts]:
        """Wait for a batch."""
        ...


class ThreadOpener:
    """Threads of this process: PIL and SHA-256 work without the interpreter's lock."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        self._pool, self._threads = pool, threads

    @property
    def width(self) -> int:
        """Twice the threads."""
        return 2 * self._threads

    def submit(self, root: Path, references: list[str]) -> Future[list[ImageFacts]]:
        """Start a batch."""
        return self._pool.submit(inspect_images, root, references)

    def result(self, handle: Future[list[ImageFacts]]) -> list[ImageFacts]:
        """Wait for a batch."""
        return handle.result()


class RayOpener:
    """Ray tasks on every node that sees the image folder."""

    def __init__(self) -> None:
        import ray

        self._get = ray.get
        self._task = ray.remote(num_cpus=1, max_retries=3)(inspect_images)
        self._cpus = int(ray.cluster_resources().get("CPU", 1))

    @property
    def width(self) -> int:
        """Twice the cluster's CPUs."""
        return 2 * self._cpus

    def submit(self, root: Path, references: list[str]) -> Any:
        """Start a batch."""
        return self._task.remote(root, references)

    def result(self, handle: Any) -> list[ImageFacts]:
        """Wait for a batch."""
        return self._get(handle)  # type: ignore[no-any-return]


@contextmanager
def opener_for(records: int) -> Iterator[Opener]:
    """Threads for few records, Ray tasks for many."""
    if records < RAY_FROM:
        threads = min(32, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads, thread_name_prefix="open-images") as pool:
            yield ThreadOpener(pool, threads)
    else:
        with ray_session.session():
            yield RayOpener()


@dataclass
class _Batch:
    entries: list[Entry]
    references: list[str]
    handle: Any


class Inspector:
    """Gives each record's image facts. An image that several records use is opened for the first of them only."""

    def __init__(self, root: Path, index: Index, opener: Opener) -> None:
        self._root, self._opener = root, opener
        self._left = dict(index.image_uses)  # image key -> records still to come
        self._known: dict[str, ImageFacts] = {}
        self._claimed: set[str] = set()
        self.opened = 0
        """Files that were opened so far."""

    def skip(self, entries: Iterable[Entry]) -> None:
        """These records need no facts (they were committed before a crash)."""
        for entry in entries:
            if isinstance(entry, Record) and entry.image is not None:
                self._used(entry.image)

    def inspect(self, batches: Iterable[list[Entry]]) -> Iterator[list[tuple[Entry, ImageFacts | None]]]:
        """Batches in, the same batches out with the facts of each record's image (None without an image)."""
        pending: deque[_Batch] = deque()
        for entries in batches:
            pending.append(self._start(entries))
            if len(pending) > self._opener.width:
                yield self._finish(pending.popleft())
        while pending:
            yield self._finish(pending.popleft())

    def _start(self, entries: list[Entry]) -> _Batch:
        references: dict[str, None] = {}
        for entry in entries:
            if not isinstance(entry, Record) or entry.image is None:
                continue
            if image_key(entry.image) in self._left:
                if entry.image in self._claimed:
                    continue
                self._claimed.add(entry.image)
            references[entry.image] = None
        chosen = list(references)
        self.opened += len(chosen)
        return _Batch(entries, chosen, self._opener.submit(self._root, chosen) if chosen else None)

    def _finish(self, batch: _Batch) -> list[tuple[Entry, ImageFacts | None]]:
        results = self._opener.result(batch.handle) if batch.handle is not None else []
        fresh = dict(zip(batch.references, results, strict=True))
        for reference, facts in fresh.items():
            if image_key(reference) in self._left:
                self._known[reference] = facts
        rows: list[tuple[Entry, ImageFacts | None]] = []
        for entry in batch.entries:
            if not isinstance(entry, Record) or entry.image is None:
                rows.append((entry, None))
                continue
            facts = self._known[entry.image] if entry.image in self._known else fresh[entry.image]
            rows.append((entry, facts))
            self._used(entry.image)
        return rows

    def _used(self, reference: str) -> None:
        """Forget an image after its last record."""
        key = image_key(reference)
        if key in self._left:
            self._left[key] -= 1
            if self._left[key] == 0:
                del self._left[key]
                self._known.pop(reference, None)
                self._claimed.discard(reference)
