"""The claims of a row (tokens, cells, picture) and what the batch shows of it.

Shapes: T tokens of a row, S image cells, n x n blocks of the square.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.training.alignment.evidence import Fact
from pipeline.training.alignment.square import SLACK, Blocks, Mask, Square, difference, open_upright
from pipeline.training.alignment.words import Words, parts_of
from pipeline.training.data.batches import Batch
from pipeline.training.data.pack_reader import PackRow

TOLERANCE = 6.0
"""Levels (of 255), root mean square over blocks, by which a picture may differ from its drawing here."""


@dataclass(frozen=True)
class Shown:
    """One row of a Batch: what the model gets."""

    ids: npt.NDArray[np.int64]
    """(T,) without padding."""
    query: npt.NDArray[np.bool_]
    """(T,) guided tokens."""
    cells: Mask
    """(S,) guided cells."""
    valid: Mask
    """(S,) cells with image pixels."""
    blocks: Blocks | None
    """None if the row has no picture."""
    guided: bool


@dataclass(frozen=True)
class Claim:
    """The claims of a row that one of its facts guides.

    least, most: (S,) cells that the mask sets whatever the rounding, and cells that it can set.
    """

    fact: Fact
    parts: tuple[str, ...]
    least: Mask
    most: Mask

    @property
    def sure(self) -> bool:
        """True if the fact guides the row unless an earlier one does."""
        return bool(self.parts) and bool(self.least.any())


@dataclass(frozen=True)
class Expected:
    """Facts about a row from outside the code that is judged.

    facts: all of its facts, in order.
    claims: of those that can guide it, up to the first one that does for sure.
    valid_least, valid_most: (S,) cells with image pixels for sure, and at most.
    blocks: the picture as it is drawn here. picture, stored: the picture upright and as in its file, in a size near
        that of the square. size: height and width of the upright picture. All None if its colours cannot be compared.
    """

    row: PackRow
    facts: tuple[Fact, ...]
    claims: tuple[Claim, ...]
    valid_least: Mask
    valid_most: Mask
    blocks: Blocks | None
    picture: Image.Image | None
    stored: Image.Image | None
    size: tuple[int, int] | None


def shown_rows(batch: Batch, square: Square) -> Iterator[Shown]:
    """The rows of a micro-batch."""
    pictures = iter(batch.pixel_values.numpy() if batch.pixel_values is not None else ())
    cells = square.grid**2
    for b in range(len(batch.input_ids)):
        length = int(batch.attention_mask[b].sum())
        with_image = batch.has_image is not None and bool(batch.has_image[b])
        yield Shown(
            ids=batch.input_ids[b, :length].numpy(),
            query=np.zeros(length, bool) if batch.query_mask is None else batch.query_mask[b, :length].numpy(),
            cells=np.zeros(cells, bool) if batch.guidance_mask is None else batch.guidance_mask[b].numpy(),
            valid=np.zeros(cells, bool) if batch.cell_mask is None else batch.cell_mask[b].numpy(),
            blocks=square.blocks(next(pictures)) if with_image else None,
            guided=batch.guided is not None and bool(batch.guided[b]),
        )


def expected_of(row: PackRow, facts: Sequence[Fact], square: Square) -> Expected:
    """The claims of a row with an image, from its facts and its image file."""
    assert row.image is not None
    fact = facts[0]
    frame = np.ones((fact.height, fact.width), dtype=bool)
    place = square.place(fact.height, fact.width)
    anywhere = Square(square.side, square.stride, square.letterbox, "any", square.mean, square.std)
    valid_least, valid_most = anywhere.cells(frame, place, SLACK)
    spans, claims = {span.turn: span for span in row.spans}, []
    for fact in facts:
        if fact.turn in spans:
            least, most = square.cells(fact.mask, square.place(fact.height, fact.width), SLACK)
            claim = Claim(fact, tuple(parts_of(fact, spans[fact.turn])), least, most)
            if claim.parts and claim.most.any():
                claims.append(claim)
            if claim.sure:
                break
    opened = open_upright(row.image)
    blocks = size = picture = stored = None
    if opened is not None:
        picture, stored = opened
        blocks, size = square.drawn(picture), (picture.height, picture.width)
        for image in opened:
            image.thumbnail((square.side, square.side))
    return Expected(row, tuple(facts), tuple(claims), valid_least, valid_most, blocks, picture, stored, size)


def problems_of(shown: Shown, expected: Expected, words: Words) -> list[str]:
    """The reasons why a row does not show what it should; empty if it does."""
    found = picture_problems(shown, expected)
    claims = expected.claims
    if not shown.guided:
        sure = [claim for claim in claims if claim.sure]
        return [*found, f"it is not guided, though {_named(sure[0].fact)} has a mask"] if sure else found
    if not claims:
        return [*found, "it is guided, though none of its masks can guide it"]
    per_claim = [claim_problems(shown, claim, words) for claim in claims]
    return found + min(per_claim, key=len)


def claim_problems(shown: Shown, claim: Claim, words: Words) -> list[str]:
    """The reasons why the tokens and the cells of a row are not those of a claim."""
    found, fact = [], claim.fact
    if fact.char_end - fact.char_start != len(fact.query):
        found.append(
            f"{_named(fact)}: its range {fact.char_start}..{fact.char_end} has not the length of its text "
            f"{fact.query!r} ({len(fact.query)} characters)"
        )
    said = words.problem(shown.ids, shown.query, claim.parts)
    if said:
        found.append(f"{_named(fact)}: {said}, but the mask was made from {' / '.join(claim.parts)!r}")
    missing, more = int((claim.least & ~shown.cells).sum()), int((shown.cells & ~claim.most).sum())
    if missing or more:
        found.append(
            f"{_named(fact)}: of the mask's {int(claim.least.sum())} to {int(claim.most.sum())} cells {missing} are "
            f"missing, and {more} cells are guided that it does not touch"
        )
    return found


def picture_problems(shown: Shown, expected: Expected) -> list[str]:
    """The reasons why a row does not show its picture."""
    row, found = expected.row, []
    assert row.image is not None
    fact = expected.facts[0]
    if shown.blocks is None:
        return ["its picture is missing"]
    if fact.image_sha256 != hashlib.sha256(row.image).hexdigest():
        found.append(f"{_named(fact)} is about another picture: the pack's image file has another checksum")
    if (expected.valid_least & ~shown.valid).any() or (shown.valid & ~expected.valid_most).any():
        found.append(
            f"{int(shown.valid.sum())} cells are said to hold image pixels, but it is "
            f"{int(expected.valid_least.sum())} to {int(expected.valid_most.sum())} others"
        )
    size = expected.size
    if size is not None and size != (fact.height, fact.width):
        found.append(f"the upright picture has {size[1]} x {size[0]} pixels, its mask {fact.width} x {fact.height}")
    if expected.blocks is not None:
        off = difference(shown.blocks, expected.blocks)
        if off > TOLERANCE:
            found.append(
                f"its pixels are not those of the upright picture in the square: they differ by {off:.0f} levels of "
                f"255, more than {TOLERANCE:.0f}"
            )
    return found


def _named(fact: Fact) -> str:
    return f"turn {fact.turn} ({fact.query_kind})"
