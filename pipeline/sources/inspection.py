"""Opens the images of many records: in parallel, in order, in bounded memory, and a repeated image only once."""

from collections import deque
from collections.abc import Iterable, Iterator

from pipeline.compute.workers import Workers, ordered
from pipeline.sources.images import ImageFacts, inspect_images
from pipeline.sources.index import Index, image_key
from pipeline.sources.records import Entry, Record
from pipeline.sources.table import ImageFolder

BATCH = 128  # records whose images one task opens


def _inspect(images: ImageFolder, references: list[str]) -> list[ImageFacts]:
    """One task, on any machine: the facts of these images."""
    return inspect_images(images.path(), references)


class Inspector:
    """Finds the image facts of records. An image that several records use is opened for the first of them only.

    A batch *claims* a shared image when its task starts, before the facts are known, so that no later batch opens it
    again. Results come in order, so a later batch finds the facts in `_known`. `_left` counts the records that still
    need them, so that each image is forgotten after its last record.
    """

    def __init__(self, images: ImageFolder, index: Index, workers: Workers) -> None:
        self._images, self._workers = images, workers
        self._left = dict(index.image_uses)  # image key -> records still to come, for shared images
        self._known: dict[str, ImageFacts] = {}  # facts of shared images
        self._claimed: set[str] = set()  # shared images that were opened or are being opened
        self.opened = 0
        """Number of files opened so far."""

    def skip(self, entries: Iterable[Entry]) -> None:
        """Pass over records that need no facts because an earlier run committed them."""
        for entry in entries:
            if isinstance(entry, Record) and entry.image is not None:
                self._used(entry.image)

    def inspect(self, batches: Iterable[list[Entry]]) -> Iterator[list[tuple[Entry, ImageFacts | None]]]:
        """The same batches, each record with the facts of its image (None without an image)."""
        started: deque[tuple[list[Entry], list[str]]] = deque()

        def pieces() -> Iterator[tuple[ImageFolder, list[str]]]:
            for entries in batches:
                references = self._claim(entries)
                started.append((entries, references))
                yield self._images, references

        for facts in ordered(self._workers, _inspect, pieces()):
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
        """Count a use of an image, and forget the image after its last record."""
        key = image_key(reference)
        if key in self._left:
            self._left[key] -= 1
            if self._left[key] == 0:
                del self._left[key]
                self._known.pop(reference, None)
                self._claimed.discard(reference)
