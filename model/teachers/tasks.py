"""Florence-2's tasks for mask generation: the prompt of each, and its parsed answer as regions. Imports no torch.

`referring` asks for the polygons of the object that a text is about, `phrase_grounding` for boxes of each phrase in it.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from model.teachers.polygons import Shape

TaskName = Literal["referring", "phrase_grounding"]
Parsed = Iterable[Mapping[str, Any]]  # instances, as Florence2PostProcessor gives them for an image of BINS x BINS

SPOKEN: Final = "LNS"  # Unicode's categories of letters, digits and symbols


@dataclass(frozen=True)
class Task:
    """One task: its prompt as Florence-2 was trained with it, and its parser."""

    prompt: str
    """Template; {query} stands for the text."""
    parser: str
    """Name of the parsing in transformers' Florence2PostProcessor."""
    shapes: Callable[[Parsed], list[Shape]]
    """The instances of a parsed answer, each with its phrase and its polygons in bins."""


def mentions_something(text: str) -> bool:
    """False for a text without any letter, digit or symbol: nothing in a picture can be what it is about."""
    return any(unicodedata.category(character)[0] in SPOKEN for character in text)


def _polygons(parsed: Parsed) -> list[Shape]:
    return [("", instance["polygons"]) for instance in parsed]


def _boxes(parsed: Parsed) -> list[Shape]:
    """Each box is an instance of its own, as a polygon of four corners."""
    return [
        (instance["cat_name"], [[x0, y0, x1, y0, x1, y1, x0, y1]])
        for instance in parsed
        for x0, y0, x1, y1 in instance["bbox"]
    ]


TASKS: Final[dict[str, Task]] = {
    "referring": Task("Locate {query} in the image with mask", "polygons", _polygons),
    "phrase_grounding": Task("Locate the phrases in the caption: {query}", "phrase_grounding", _boxes),
}
