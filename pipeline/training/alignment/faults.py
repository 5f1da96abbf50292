"""The faults that a row would reveal: each is put into what the row shows, and the row is judged again.

A symmetric mask does not reveal that it is mirrored, a square picture shows nothing of the letterbox, a picture without
EXIF rotation nothing of that rotation. So a proof says on how many of its rows each fault would have been seen.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.training.alignment.claims import Claim, Expected, Shown, problems_of
from pipeline.training.alignment.square import Blocks, Mask, Place, Square
from pipeline.training.alignment.words import Words
from pipeline.training.data.batches import query_tokens


@dataclass(frozen=True)
class Case:
    """A guided row that shows what it should."""

    shown: Shown
    claim: Claim
    expected: Expected
    square: Square
    other: Mask | None
    """(S,) cells of another row's mask."""


Fault = Callable[[Case], Shown | None]
"""A row as the fault would change it; None where the row cannot have the fault."""


def visible_faults(case: Case, words: Words) -> set[str]:
    """The names of the faults that this row would reveal."""
    seen = set()
    for name, fault in FAULTS.items():
        shown = fault(case)
        if shown is not None and problems_of(shown, case.expected, words):
            seen.add(name)
    return seen


def _tokens(change: Callable[[Case], npt.NDArray[np.bool_] | None]) -> Fault:
    def fault(case: Case) -> Shown | None:
        query = change(case)
        return None if query is None or not query.any() else replace(case.shown, query=query)

    return fault


def _cells(change: Callable[[Case], Mask | None]) -> Fault:
    def fault(case: Case) -> Shown | None:
        cells = change(case)
        return None if cells is None else replace(case.shown, cells=cells.reshape(-1) & case.shown.valid)

    return fault


def _picture(change: Callable[[Case], Blocks | None]) -> Fault:
    def fault(case: Case) -> Shown | None:
        blocks = change(case) if case.shown.blocks is not None and case.expected.picture is not None else None
        return None if blocks is None else replace(case.shown, blocks=blocks)

    return fault


def _other_turn(case: Case) -> npt.NDArray[np.bool_] | None:
    fact, row = case.claim.fact, case.expected.row
    others = [span for span in row.spans if span.turn != fact.turn]
    return query_tokens(row, others[0], fact.char_start, fact.char_end) if others else None


def _other_part(case: Case) -> npt.NDArray[np.bool_] | None:
    fact, row = case.claim.fact, case.expected.row
    if len(case.claim.parts) > 1:
        return None
    (span,) = (span for span in row.spans if span.turn == fact.turn)
    return query_tokens(row, span, 0, 1 << 30) & ~case.shown.query


def _one_less(case: Case) -> npt.NDArray[np.bool_]:
    fact, row = case.claim.fact, case.expected.row
    (span,) = (span for span in row.spans if span.turn == fact.turn)
    return query_tokens(row, span, fact.char_start, fact.char_end - 1)


def _grid(case: Case) -> Mask:
    return case.shown.cells.reshape(case.square.grid, case.square.grid)


def _placed(letterbox: str | None = None, down: float = 0, right: float = 0, corner: bool = False) -> Fault:
    """The mask at another place of the square; distances in cells."""

    def change(case: Case) -> Mask:
        fact, square = case.claim.fact, case.square
        place = square.place(fact.height, fact.width, letterbox)
        if corner:
            place = replace(place, top=0.0, left=0.0)
        return square.cells(fact.mask, place.moved(down * square.stride, right * square.stride))[1]

    return _cells(change)


def _uncropped(case: Case) -> Mask:
    """The mask's middle square over the whole input, as if it had been cropped and the picture had not."""
    mask = case.claim.fact.mask
    side, (height, width) = min(mask.shape), mask.shape
    top, left = (height - side) // 2, (width - side) // 2
    cut = mask[top : top + side, left : left + side]
    return case.square.cells(cut, case.square.place(side, side))[1]


def _stored_mask(case: Case) -> Mask | None:
    """The mask in the frame of the file, whose picture is shown upright."""
    picture, stored = case.expected.picture, case.expected.stored
    if picture is None or stored is None or picture.size == stored.size:
        return None
    mask = np.ascontiguousarray(case.claim.fact.mask.T)
    return case.square.cells(mask, case.square.place(*mask.shape))[1]


def _cropped(case: Case) -> Blocks | None:
    """The picture's middle square over the whole input."""
    picture = case.expected.picture
    assert picture is not None
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return case.square.drawn(picture.crop((left, top, left + side, top + side)))


def _drawn_at(place: Callable[[Square, int, int], Place]) -> Fault:
    def change(case: Case) -> Blocks | None:
        picture, square = case.expected.picture, case.square
        assert picture is not None
        other = place(square, picture.height, picture.width)
        same = other == square.place(picture.height, picture.width)
        return None if same else square.drawn(picture, other)

    return _picture(change)


def _stored_picture(case: Case) -> Blocks | None:
    stored = case.expected.stored
    return None if stored is None else case.square.drawn(stored)


def _blocks(change: Callable[[Any], Any]) -> Fault:
    return _picture(lambda case: np.ascontiguousarray(change(case.shown.blocks)))


def _moved_blocks(case: Case, axis: int) -> Blocks:
    assert case.shown.blocks is not None
    return np.roll(case.shown.blocks, round(case.square.stride / 2 / case.square.block), axis)


def _padding_turned(case: Case) -> Shown:
    grid = case.square.grid
    return replace(case.shown, valid=case.shown.valid.reshape(grid, grid).T.reshape(-1))


FAULTS: dict[str, Fault] = {
    "tokens one too late": _tokens(lambda case: np.roll(case.shown.query, 1)),
    "tokens one too early": _tokens(lambda case: np.roll(case.shown.query, -1)),
    "one character too few": _tokens(_one_less),
    "tokens of another turn": _tokens(_other_turn),
    "answer for question": _tokens(_other_part),
    "mask of another sample": _cells(lambda case: case.other),
    "mask mirrored": _cells(lambda case: _grid(case)[:, ::-1]),
    "mask upside down": _cells(lambda case: _grid(case)[::-1]),
    "mask turned by 180": _cells(lambda case: _grid(case)[::-1, ::-1]),
    "mask transposed": _cells(lambda case: _grid(case).T),
    "mask in the file's frame": _cells(_stored_mask),
    "mask stretched": _placed(letterbox="squash"),
    "mask cropped": _cells(_uncropped),
    "mask in the corner": _placed(corner=True),
    "mask half a cell right": _placed(right=0.5),
    "mask half a cell down": _placed(down=0.5),
    "picture mirrored": _blocks(lambda blocks: blocks[:, ::-1]),
    "picture upside down": _blocks(lambda blocks: blocks[::-1]),
    "picture turned by 180": _blocks(lambda blocks: blocks[::-1, ::-1]),
    "picture's EXIF ignored": _picture(_stored_picture),
    "picture stretched": _drawn_at(lambda square, height, width: square.place(height, width, "squash")),
    "picture cropped": _picture(_cropped),
    "picture in the corner": _drawn_at(
        lambda square, height, width: replace(square.place(height, width), top=0.0, left=0.0)
    ),
    "picture half a cell right": _picture(lambda case: _moved_blocks(case, 1)),
    "picture half a cell down": _picture(lambda case: _moved_blocks(case, 0)),
    "padding on the other sides": _padding_turned,
}
