"""The proof: chosen rows go through the stage's own collator, and each is judged."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.errors import DataError
from pipeline.training.alignment.choice import Chosen
from pipeline.training.alignment.claims import (
    Claim,
    Expected,
    Shown,
    claim_problems,
    expected_of,
    problems_of,
    shown_rows,
)
from pipeline.training.alignment.faults import FAULTS, Case, visible_faults
from pipeline.training.alignment.square import SLACK, Square
from pipeline.training.alignment.truth import Truth, compare
from pipeline.training.alignment.words import Words
from pipeline.training.data.batches import Collator

ROWS = 24
"""Guided rows that a stage looks at before its first step."""
MICRO_BATCH = 8
NAMED = 3
"""Wrong rows that an error describes."""


@dataclass(frozen=True)
class Judged:
    """One row: what it shows, what it should show, and the differences. claim: the mask that guides it."""

    shown: Shown
    expected: Expected
    claim: Claim | None
    problems: list[str]
    square_share: float
    """The mask's share of the square, 0..1."""

    @property
    def sample_id(self) -> str:
        """The id of the row's sample."""
        return self.expected.row.sample_id


@dataclass(frozen=True)
class Proof:
    """The outcome. visible: fault -> rows that would have revealed it, of those that are right."""

    stage: str
    rows: list[Judged]
    square: Square
    visible: dict[str, int]
    truth: Truth | None
    strays: list[str]
    """Problems of the rows without a mask."""
    looked_at: int
    seconds: float

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, each with its row."""
        rows = [f"row {row.sample_id}: {problem}" for row in self.rows for problem in row.problems]
        return [*rows, *self.strays, *(self.truth.problems if self.truth is not None else [])]

    def check(self) -> None:
        """Raise DataError, naming the first wrong rows, unless everything is right."""
        if self.problems:
            wrong = sum(bool(row.problems) for row in self.rows)
            more = len(self.problems) - NAMED
            raise DataError(
                f"{self.stage}: the guidance is not aligned: {wrong} of {len(self.rows)} guided rows are wrong.\n  "
                + "\n  ".join(self.problems[:NAMED])
                + (f"\n  and {more} more problems" if more > 0 else "")
                + "\nNothing was trained. Make the pack and the masks again if they are older than the code; otherwise "
                "the code that joins them has a fault. 'agevlm check-alignment' draws these rows."
            )


def square_of(image_processor: Any, rule: str) -> Square:
    """The student's square input. image_processor: `AgeVlmProcessor.image_processor`; rule: `mask_cells`."""
    mean, std = tuple(image_processor.image_mean), tuple(image_processor.image_std)
    return Square(image_processor.image_size, image_processor.stride, image_processor.letterbox, rule, mean, std)


def prove(
    stage: str, chosen: Chosen, collate: Collator, words: Words, square: Square, with_faults: bool = True
) -> Proof:
    """Put rows through the collator and judge them.

    with_faults: also find out which faults the rows would have revealed, which takes longer than the judgement.
    """
    started = time.monotonic()
    judged, strays = [], []
    others = list(chosen.others)
    step = MICRO_BATCH - 2 if others else MICRO_BATCH
    for first in range(0, len(chosen.guided), step):
        part = chosen.guided[first : first + step]
        plain, others = others[:2], others[2:] or others[:2]
        # Rows without a mask, and without an image, lie between the guided ones as in training.
        rows = [*((row, []) for row in plain[:1]), *part, *((row, []) for row in plain[1:])]
        for (row, facts), own in zip(rows, shown_rows(collate([row for row, _ in rows]), square), strict=True):
            if facts:
                judged.append(_judged(own, expected_of(row, facts, square), words, square))
            elif own.guided or own.query.any() or own.cells.any():
                strays.append(f"row {row.sample_id}: it is guided, though it has no accepted mask")
    right = [(one, one.claim) for one in judged if one.claim is not None and not one.problems]
    visible: Counter[str] = Counter()
    for index, (good, claim) in enumerate(right if with_faults else []):
        case = Case(good.shown, claim, good.expected, square, _another(right, index))
        visible.update(visible_faults(case, words))
    truth = compare([(one.shown, one.claim) for one in judged if one.claim is not None], square)
    return Proof(
        stage,
        judged,
        square,
        {name: visible[name] for name in FAULTS} if with_faults else {},
        truth,
        list(dict.fromkeys(strays)),
        chosen.looked_at,
        time.monotonic() - started,
    )


def _judged(shown: Shown, expected: Expected, words: Words, square: Square) -> Judged:
    claim, problems, share = _claim_of(shown, expected, words), problems_of(shown, expected, words), 0.0
    if claim is not None:
        fact = claim.fact
        place = square.place(fact.height, fact.width)
        share = fact.area * place.scale_y * place.scale_x / square.side**2
        # The rule 'any' takes every cell that the mask touches, so its cells hold the whole mask.
        if square.rule == "any" and shown.cells.mean() < share - 4 * SLACK / square.side:
            problems.append(
                f"its cells are {100 * shown.cells.mean():.1f} % of the square, its mask {100 * share:.1f} %"
            )
        if fact.area != int(fact.mask.sum()):
            problems.append(f"its mask has {int(fact.mask.sum())} pixels, but the table of masks says {fact.area}")
    return Judged(shown, expected, claim, problems, share)


def _claim_of(shown: Shown, expected: Expected, words: Words) -> Claim | None:
    """The claim that a row comes nearest to."""
    if not shown.guided or not expected.claims:
        return None
    return min(expected.claims, key=lambda claim: len(claim_problems(shown, claim, words)))


def _another(rows: Sequence[tuple[Judged, Claim]], index: int) -> Any:
    """The cells of another row's mask; None if there is no other row."""
    return rows[(index + 1) % len(rows)][0].shown.cells if len(rows) > 1 else None
