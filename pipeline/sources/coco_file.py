"""The parts of a COCO annotation file: its lists, its ids, and its table of images.

A file that has no such lists is an error. A bad entry of a list is left out, counted by the name of its fault.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import DataError
from model.images import MAX_PIXELS
from pipeline.sources.images.references import tidy
from pipeline.sources.records import printable

EXAMPLES = 3  # of each reason
MAX_EXAMPLE = 300  # characters
MAX_DIGITS = 18


class BadEntry(ValueError):
    """An entry of an annotation file that cannot be used; `reason` is a short name to count by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class Findings:
    """Entries of an annotation file that were left out or repaired, by name."""

    path: Path
    rejected: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    """The first places of each reason, with file, entry and fault."""

    def reject(self, entry: str, error: BadEntry) -> None:
        """Count an entry that is left out."""
        self.rejected[error.reason] += 1
        if self.rejected[error.reason] <= EXAMPLES:
            self.examples.append(printable(f"{error.reason}: {self.path}, {entry}: {error}"[:MAX_EXAMPLE]))


def read_json(path: Path, *keys: str) -> dict[str, list[Any]]:
    """The lists `keys` of a COCO file. Raises DataError that names the file, the fault and the remedy.

    A list may hold bad entries. One that holds entries but no object at all is not COCO's.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(
            f"annotation file {path} cannot be read ({error.strerror}); correct its location in the recipe"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"annotation file {path} is not JSON: {error}; correct the file, or name another in the recipe"
        ) from error
    lists = {key: value.get(key) if isinstance(value, dict) else None for key in keys}
    for key, items in lists.items():
        if not isinstance(items, list) or (items and not any(isinstance(item, dict) for item in items)):
            raise DataError(f"annotation file {path} has no list '{key}' of objects; it must be in COCO's format")
    return lists  # type: ignore[return-value]


def entry_name(kind: str, number: int, entry: Any) -> str:
    """The name of entry `number` (from 1) of a list in messages: with its id if it has one."""
    given = entry.get("id") if isinstance(entry, dict) else None
    return f"{kind} number {number}" if given is None else f"{kind} {given}"


def id_of(value: Any) -> int | str | None:
    """An id in one form: 12, 12.0 and "12" are the same. None if it is neither a whole number nor a text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS:
        return int(value) if str(int(value)) == value else value
    return value if isinstance(value, int | str) and value != "" else None


def size_of(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width in pixels, also from texts and whole floats; None if they are no size of an image."""
    sides = id_of(height), id_of(width)
    if not isinstance(sides[0], int) or not isinstance(sides[1], int) or min(sides[0], sides[1]) < 1:
        return None
    return (sides[0], sides[1]) if sides[0] * sides[1] <= MAX_PIXELS else None


class ImageTable:
    """COCO's list of images: the file of each id, and the size of each file."""

    def __init__(self, images: list[Any], findings: Findings) -> None:
        """Read the list. Entries that cannot be used, or contradict each other, are added to `findings`."""
        self._findings = findings
        self._files: dict[int | str, str] = {}
        self._listed: set[Any] = set()  # the ids as they are written
        self._two_files: set[int | str] = set()
        self.sizes: dict[str, tuple[int, int] | None] = {}
        """File -> height and width in pixels, in the list's order; None if its entry states no usable size."""
        self.contradictory: set[str] = set()
        """Files with two sizes, and files that share their id: what is annotated for them is in doubt."""
        for number, entry in enumerate(images, 1):
            try:
                self._add(entry)
            except BadEntry as error:
                findings.reject(entry_name("image", number, entry), error)

    def _add(self, entry: Any) -> None:
        if not isinstance(entry, dict):
            raise BadEntry("bad_image", f"is {type(entry).__name__}, not an object")
        key, name = id_of(entry.get("id")), entry.get("file_name")
        if key is None:
            raise BadEntry("bad_image", "has no id that is a whole number or a text")
        if not isinstance(name, str) or not name:
            raise BadEntry("bad_image", f"file_name is {type(name).__name__}, not a text, or empty")
        file, size = tidy(name), size_of(entry.get("height"), entry.get("width"))
        self._listed.add(entry["id"])
        known_file, known_size = self._files.setdefault(key, file), self.sizes.setdefault(file, size)
        if size is not None and not (type(entry["height"]) is type(entry["width"]) is int):
            self._findings.repaired["size_not_as_integers"] += 1
        if known_file != file:
            self._two_files.add(key)
            self.contradictory |= {known_file, file}
            raise BadEntry("duplicate_image_id", f"is {file}, but the same id was {known_file} before")
        if known_size != size:
            self.contradictory.add(file)
            raise BadEntry("duplicate_file_name", f"{file} has size {size}, but had {known_size} before")

    def find(self, image_id: Any) -> str:
        """The file of an id. Raises BadEntry with reason 'unknown_image' or 'duplicate_image_id'."""
        key = id_of(image_id)
        if key is None or key not in self._files:
            raise BadEntry("unknown_image", f"image_id {image_id!r:.50} is not in 'images'")
        if key in self._two_files:
            raise BadEntry("duplicate_image_id", f"image_id {image_id!r:.50} is the id of two files")
        if image_id not in self._listed:
            self._findings.repaired["id_in_another_form"] += 1
        return self._files[key]
