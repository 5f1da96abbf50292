"""Opening the images of many records at once: in parallel, in order, in bounded memory, a repeated image once."""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.sources.images import ImageFacts, inspect_images
from pipeline.sources.index import Index, image_key
from pipeline.sources.records import Entry, Record
from pipeline.workers import Workers, ordered

BATCH = 128  # records whose images one task opens


class Inspector:
    """Gives each record's image facts. An image that several records use is opened for the first of them only."""

    def __init__(self, root: Path, index: Index, workers: Workers) -> None:
        self._root, self._workers = root, workers
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
        started: deque[tuple[list[Entry], list[str]]] = deque()

        def pieces() -> Iterator[tuple[Path, list[str]]]:
            for entries in batches:
                references = self._claim(entries)
                started.append((entries, references))
                yield self._root, references

        for facts in ordered(self._workers, inspect_images, pieces()):
            entries, references = started.popleft()
            yield self._finish(entries, dict(zip(references, facts, strict=True)))

    def _claim(self, entries: list[Entry]) -> list[str]:
        """The images of a batch that no earlier batch has opened or is opening."""
        references: dict[str, None] = {}
        for entry in entries:
            if not isinstance(entry, Record) or entry.image is None:
                continue
            if image_key(entry.image) in self._left:
                if entry.image in self._claimed:
                    continue
                self._claimed.add(entry.image)
            references[entry.image] = None
        self.opened += len(references)
        return list(references)

    def _finish(self, entries: list[Entry], fresh: dict[str, ImageFacts]) -> list[tuple[Entry, ImageFacts | None]]:
        for reference, facts in fresh.items():
            if image_key(reference) in self._left:
                self._known[reference] = facts
        rows: list[tuple[Entry, ImageFacts | None]] = []
        for entry in entries:
            if not isinstance(entry, Record) or entry.image is None:
                rows.append((entry, None))
                continue
            rows.append((entry, self._known[entry.image] if entry.image in self._known else fresh[entry.image]))
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
