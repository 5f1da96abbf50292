"""A record: one sample of a raw data set, in the one form that all sources give it."""

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
    """What a turn is really about: a mask in the full image, or nothing that is there."""

    present: bool
    height: int
    """Of the image in pixels; 0 where nothing is there."""
    width: int
    rle: str | None
    """`counts` of COCO's compressed run-length encoding; None where nothing is there."""


@dataclass(frozen=True, slots=True)
class Record:
    """A usable record. The image has not been looked at yet."""

    sample_id: str
    given_id: str
    image: str | None
    """Path as the raw data writes it (below the image folder, checked when it is opened); None for text only."""
    turns: tuple[Turn, ...]
    truth: tuple[Truth | None, ...] | None = None
    """One entry per turn where the source knows, else None."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot be used: a reason to count by, and where and what."""

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
        """Whether records come with ground truth."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Every record in file order, the same at every call. Ids carry no '#k' yet: `index` numbers exact copies."""
        ...


def canonical_id(image: Any, conversations: Any) -> str:
    """The id of a record: hash of its raw image reference and conversations.

    Raises ValueError on NaN or infinity, RecursionError on values that are nested too deeply.
    """
    return digest({"image": image, "conversations": conversations})


def printable(text: str) -> str:
    """The text as UTF-8 can write it: a lone surrogate, which JSON can hold, is spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def copy_id(canonical: str, copies: int) -> str:
    """The id of an exact copy: '#1' for the first copy of a record, and so on; the first itself has no suffix."""
    return f"{canonical}#{copies}" if copies else canonical


def order_key(purpose: str, seed: int, name: str) -> bytes:
    """Where a name stands in the seeded hash order of a purpose: 16 bytes, to be compared as they are.

    Each purpose has an order of its own, so that the rows of a subset are spread evenly over a pack.
    """
    return hashlib.sha256(f"{purpose}:{seed}:{name}".encode("utf-8", "surrogatepass")).digest()[:16]
