"""A proof as one picture: each row's square as the model gets it, with guided cells, the mask's edge and the words.

The square is drawn from `pixel_values`, the cells from `guidance_mask`; only the mask's edge comes from the evidence.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.training.alignment.proof import Judged, Proof
from pipeline.training.alignment.show import area_lines, conversation
from pipeline.training.alignment.square import BLOCKS_PER_CELL, Mask, Square
from pipeline.training.alignment.words import Words

SIDE = 240
"""Pixels of a drawn square."""
ACROSS = 4
GAP = 14
LINES = 9
"""Lines of text below a square."""
LINE = 13
EDGE, CELL, WRONG = (255, 40, 160), (255, 215, 0), (200, 0, 0)


def draw_sheet(proofs: Sequence[tuple[Proof, Words]]) -> Image.Image:
    """The rows of some proofs as one picture, wrong ones first."""
    tiles = [
        _tile(row, proof.square, words, proof.stage)
        for proof, words in proofs
        for row in sorted(proof.rows, key=lambda row: not row.problems)
    ]
    across = min(ACROSS, max(1, len(tiles)))
    width, height = SIDE + GAP, SIDE + LINES * LINE + GAP
    sheet = Image.new("RGB", (across * width + GAP, -(-len(tiles) // across) * height + GAP), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (GAP + number % across * width, GAP + number // across * height))
    return sheet


def _tile(row: Judged, square: Square, words: Words, stage: str) -> Image.Image:
    tile = Image.new("RGB", (SIDE, SIDE + LINES * LINE), "white")
    tile.paste(_picture(row, square), (0, 0))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(11)
    claim = row.claim
    title = f"{stage} {row.sample_id[:12]}" + ("" if claim is None else f", turn {claim.fact.turn}")
    said = "" if claim is None else " / ".join(claim.parts)
    shown = conversation(row, words)
    guided = " / ".join(shown.plain[span.start + 2 : span.end - 2] for span in shown.spans if "bold" in str(span.style))
    lines = [title, *textwrap.wrap(f"guided: {guided}", 40)[:2], *textwrap.wrap(f"sent: {said}", 40)[:2]]
    lines += area_lines(row)
    for number, line in enumerate(lines):
        pen.text((0, SIDE + 2 + number * LINE), line, fill="black", font=font)
    if row.problems:
        pen.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=WRONG, width=4)
        pen.text((6, 6), "WRONG", fill=WRONG, font=ImageFont.load_default(20))
    return tile


def _picture(row: Judged, square: Square) -> Image.Image:
    """The square that the model gets, in blocks, with the guided cells and the edge of the evidence's mask."""
    blocks = row.shown.blocks
    n = square.grid * BLOCKS_PER_CELL
    colours = np.full((n, n, 3), 255.0) if blocks is None else blocks
    picture = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    cells = Image.fromarray(row.shown.cells.reshape(square.grid, square.grid)).convert("L")
    cover = cells.resize((SIDE, SIDE), Image.Resampling.NEAREST).point(lambda value: 70 if value else 0)
    picture.paste(Image.new("RGB", picture.size, CELL), mask=cover)
    if row.claim is not None:
        fact = row.claim.fact
        fine = Square(SIDE, 1, square.letterbox, "half", square.mean, square.std)
        inside = fine.coverage(fact.mask, fine.place(fact.height, fact.width)) >= 0.5
        edge = inside & ~(_moved(inside, 0) & _moved(inside, 1))
        picture.paste(Image.new("RGB", picture.size, EDGE), mask=Image.fromarray(edge))
    return picture


def _moved(mask: Mask, axis: int) -> Mask:
    """True where both neighbours along an axis are in the mask."""
    return np.asarray(np.roll(mask, 1, axis) & np.roll(mask, -1, axis))
