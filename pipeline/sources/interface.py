"""The interface of a source of raw data. A new source is one module that has these members, and one row of the table.

A source is opened again in each worker process, so it is cheap to open, and `read` gives the same records each time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.sources.rows import Rows


@dataclass(frozen=True)
class Split:
    """A part of a data set that is read on its own: bytes of a file, or rows. Its unit is the source's business."""

    number: int
    file: int = 0
    """Number of the file among the source's files."""
    start: int = 0
    end: int | None = None
    """None: to the end of the file."""


class RawSource(Protocol):
    """A raw data set, open for reading."""

    @property
    def knows_truth(self) -> bool:
        """True if records come with ground truth."""
        ...

    @property
    def findings(self) -> tuple[Mapping[str, Mapping[str, int]], Sequence[str]]:
        """Faults of annotations that are no records: counts by name and reason, and examples for people."""
        ...

    @property
    def unit(self) -> str:
        """The unit of a record's number, for messages: 'line', 'record' or 'row'; '' if details name the place."""
        ...

    @property
    def size(self) -> int:
        """About how many records it has. Memory per task follows from it, not the result."""
        ...

    def splits(self) -> Sequence[Split]:
        """The parts that are read independently, in the order of the data. Reads no record."""
        ...

    def read(self, split: Split) -> Iterator[Rows]:
        """The records of a split in order, some thousand at a time. Reads on only when the next ones are asked for."""
        ...
