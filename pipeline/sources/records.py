"""A record: one sample of a raw data set, in the form that all sources share."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.artifacts.spec import digest


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer, cleaned."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Truth:
    """Ground truth of a turn: the mask of the object that it is about, or that the object is not in the image."""

    present: bool
    height: int
    """Image height in pixels; 0 if the object is not there."""
    width: int
    rle: str | None
    """`counts` of COCO's compressed run-length encoding; None if the object is not there."""


@dataclass(frozen=True, slots=True)
class Record:
    """A usable record. Its image has not been opened yet."""

    sample_id: str
    given_id: str
    image: str | None
    """Path from the raw data, relative to the image folder (checked when it is opened); None for text only."""
    turns: tuple[Turn, ...]
    truth: tuple[Truth | None, ...] | None = None
    """One entry per turn if the source has ground truth, else None."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot be used: a reason to count by, and a detail for people."""

    sample_id: str
    reason: str
    detail: str


Entry = Record | Rejected


class RawSource(Protocol):
    """A raw data set, open for reading."""

    @property
    def images(self) -> Path:
        """The folder that image paths start from."""
        ...

    @property
    def knows_truth(self) -> bool:
        """True if records come with ground truth."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Every record in file order, the same at each call. Ids have no '#k': `Index.walk` numbers exact copies."""
        ...


def canonical_id(image: Any, conversations: Any) -> str:
    """The id of a record: hash of its raw image reference and conversations.

    Raises ValueError on NaN or infinity, RecursionError on values that are nested too deeply.
    """
    return digest({"image": image, "conversations": conversations})


def printable(text: str) -> str:
    """The text as valid UTF-8: a lone surrogate, which JSON can hold, is written as an escape sequence."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def copy_id(canonical: str, copies: int) -> str:
    """The id of an exact copy: '#1' for the first copy of a record, and so on; the first itself has no suffix."""
    return f"{canonical}#{copies}" if copies else canonical


def order_key(purpose: str, seed: int, name: str) -> bytes:
    """Sort key of a name in the seeded hash order of a purpose: 16 bytes, compared as bytes.

    Each purpose has a different order, so that the rows of a subset are spread evenly over a pack.
    """
    return hashlib.sha256(f"{purpose}:{seed}:{name}".encode("utf-8", "surrogatepass")).digest()[:16]
