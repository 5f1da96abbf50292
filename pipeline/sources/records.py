"""A record: one sample of a raw data set, in the form that all sources share."""

import hashlib
from dataclasses import dataclass
from typing import Any

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
    """The image as the raw data names it; None for text only. `pipeline.inventory.looking` finds and checks it."""
    turns: tuple[Turn, ...]
    truth: tuple[Truth | None, ...] | None = None
    """One entry per turn if the source has ground truth, else None."""
    number: int = 0
    """Number of its line (or row) in its split, from 1."""
    source: str = ""
    """The part of the data set that it comes from: its field 'source', else the first folder of its image path."""
    changes: tuple[str, ...] = ()
    """Names of what was changed in its conversation, such as 'leading_turn_dropped'."""
    truth_in_doubt: int = 0
    """Turns whose truth was left out, because an annotation that it depends on cannot be used."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot be used: a reason to count by, and a detail for people."""

    sample_id: str
    reason: str
    detail: str
    number: int = 0
    """Number of its line (or row) in its split, from 1."""
    given_id: str = ""


Entry = Record | Rejected


def canonical_id(image: Any, conversations: Any) -> str:
    """The id of a record: hash of its raw image reference and conversations.

    Raises ValueError on NaN or infinity, RecursionError on values that are nested too deeply.
    """
    return digest({"image": image, "conversations": conversations})


def printable(text: str) -> str:
    """The text as valid UTF-8: a lone surrogate, which JSON can hold, is written as an escape sequence."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def given_id(value: Any) -> str:
    """A raw data set's own id of a record as text; '' if it has none, or one that is neither text nor a number."""
    return printable(str(value)) if isinstance(value, str | int | float) and value == value else ""


def source_name(value: Any, image: str | None) -> str:
    """The part of the data set that a record comes from: its own field 'source', else its image's first folder."""
    if isinstance(value, str) and value:
        return printable(value)
    parts = [] if image is None else [part for part in image.split("/") if part not in ("", ".", "..")]
    return printable(parts[0]) if len(parts) > 1 else ""


def copy_id(canonical: str, copies: int) -> str:
    """The id of an exact copy: '#1' for the first copy of a record, and so on; the first itself has no suffix."""
    return f"{canonical}#{copies}" if copies else canonical


def order_key(purpose: str, seed: int, name: str) -> bytes:
    """Sort key of a name in the seeded hash order of a purpose: 16 bytes, compared as bytes.

    Each purpose has a different order, so that the rows of a subset are spread evenly over a pack.
    """
    return hashlib.sha256(f"{purpose}:{seed}:{name}".encode("utf-8", "surrogatepass")).digest()[:16]


def key_of(purpose: str, seed: int, name: str) -> int:
    """The first 64 bits of a name's sort key (`order_key`) as a number."""
    return int.from_bytes(order_key(purpose, seed, name)[:8], "big")
