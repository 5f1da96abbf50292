"""The contact sheet of a data set's masks: the best, some at random, the worst, and some that a gate stopped.

The masks are ordered by their IoU with the truth where that is known, else by the product of the teachers' figures.
A picture comes once in each row of the sheet.
"""

import heapq
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from model.errors import AgevlmError
from pipeline.report.originals import Images
from pipeline.report.overlays import ACCEPTED, REFUSED, TRUTH, draw
from pipeline.report.sample import Row, Sample, key_of, order_of

COLUMNS = 6
POOL = 4 * COLUMNS
"""Rows that are kept for each end: several may be of one picture."""
TILE, GAP, MARGIN, LINE, TITLE = 232, 14, 22, 17, 40
"""Pixels: side of a picture, space between two, the sheet's margin, height of a line, height of a row's title."""
KEEP = "\u00a0"  # a space where no line ends; the font has no glyph for it
LINES = 2  # of a query that are shown
QUALITY = 84
PAPER, INK, SOFT, TILE_GROUND = (251, 250, 247), (28, 28, 30), (98, 98, 104), (235, 233, 228)
FIGURES = {"polygon_score": "Florence", "sam_iou": "SAM", "agreement_iou": "agreement", "stability": "stability"}


@dataclass(frozen=True)
class Tile:
    """One mask of the sheet."""

    row: Row
    """Columns of MASKS."""
    refused: tuple[str, ...]
    """The instances of its evidence, if a gate stopped it."""
    truth: str | None
    iou: float | None
    """With the truth; None where it is not known."""


class ContactSheet:
    """Takes rows of masks, and draws the sheet of those that it chose."""

    def __init__(self) -> None:
        self._random, self._worst, self._best = Sample(POOL), Extremes(-1), Extremes(1)
        self._tiles: dict[tuple[str, int, str], Tile] = {}
        self._accepted = self._stopped = 0
        self._judged = False

    def add(self, row: Row, evidence: Mapping[str, Any], truth: str | None, iou: float | None) -> None:
        """Add a row of MASKS and its EVIDENCE, its true mask, and the IoU of both. Of few rows anything is kept."""
        if row["status"] not in ("ok", "low_quality"):
            return
        accepted = row["status"] == "ok"
        self._accepted, self._stopped = self._accepted + accepted, self._stopped + (not accepted)
        self._judged |= iou is not None
        refused = () if accepted else tuple(i["rle"] for i in evidence["instances"] or () if i["rle"])
        tile = Tile(row, refused, truth, iou)
        kept = self._random.add(row)
        if accepted:
            rank = _evidence_rank(row) if iou is None else iou
            kept = any([kept, self._worst.add(rank, row), self._best.add(rank, row)])
        if kept:
            self._tiles[key_of(row)] = tile
        if len(self._tiles) > 64 * POOL:
            self._forget()

    def tiles(self) -> dict[str, list[Tile]]:
        """Title of a row of the sheet -> its masks. A row without any is left out."""
        by = "IoU with the truth" if self._judged else "the teachers' figures"
        rows = {
            f"Best by {by}": self._best.rows(),
            "At random": self._random.choose({"ok": POOL}),
            f"Worst by {by}": self._worst.rows(),
            "Stopped by a gate": self._random.choose({"low_quality": POOL}),
        }
        return {title: [self._tiles[key_of(row)] for row in _one_a_picture(found)] for title, found in rows.items()}

    def jpeg(self, name: str, total: int, images: Images) -> bytes:
        """The sheet as a JPEG file.

        Args:
            name: of the data set.
            total: number of queries.
            images: for the rows that it chose. A mask whose image is not at hand is drawn on a plain ground.
        """
        bands = {title: tiles for title, tiles in self.tiles().items() if tiles}
        deep = TITLE + TILE + (LINES + 2) * LINE + GAP
        width = 2 * MARGIN + COLUMNS * TILE + (COLUMNS - 1) * GAP
        sheet = Image.new("RGB", (width, 2 * MARGIN + 58 + max(1, len(bands)) * deep), PAPER)
        pen = ImageDraw.Draw(sheet)
        pen.text((MARGIN, MARGIN), f"Masks of {name}", INK, _font(24))
        counts = f"{self._accepted:,} of {total:,} queries got a mask, a gate stopped {self._stopped:,}"
        x = MARGIN
        for words, colour in ((f"{counts}     ", None), ("accepted", ACCEPTED), ("stopped", REFUSED), ("truth", TRUTH)):
            x = _legend(pen, x, MARGIN + 36, words, colour)
        top = MARGIN + 58
        if not bands:
            pen.text((MARGIN, top + TITLE), "There is no mask to show.", SOFT, _font(16))
        for title, tiles in bands.items():
            pen.text((MARGIN, top + TITLE - 25), title, INK, _font(16))
            for column, tile in enumerate(tiles):
                _place(sheet, pen, (MARGIN + column * (TILE + GAP), top + TITLE), tile, images)
            top += deep
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    def _forget(self) -> None:
        """Drop the rows that no list holds any more."""
        held = {key_of(row) for row in (*self._worst.rows(), *self._best.rows(), *self._random.rows())}
        self._tiles = {key: tile for key, tile in self._tiles.items() if key in held}


class Extremes:
    """The POOL rows with the largest (sign 1) or smallest (-1) rank; a hash of their keys orders equal ones."""

    def __init__(self, sign: int) -> None:
        self._sign = sign
        self._heap: list[tuple[float, bytes, Row]] = []

    def add(self, rank: float, row: Row) -> bool:
        """Take the row if it is among them. Returns True if it is."""
        item = (self._sign * rank, order_of(row), row)
        if len(self._heap) < POOL:
            heapq.heappush(self._heap, item)
            return True
        return heapq.heapreplace(self._heap, item) is not item if item > self._heap[0] else False

    def rows(self) -> list[Row]:
        """The rows, the most extreme first."""
        return [row for _, _, row in sorted(self._heap, key=lambda item: item[:2], reverse=True)]


def caption(tile: Tile) -> str:
    """The figures below a picture; first the reason, if a gate stopped it."""
    row = tile.row
    parts = [row["reason"]] if row["status"] == "low_quality" else []
    if tile.iou is not None:
        parts.append(f"IoU {tile.iou:.2f}" if tile.truth else "not in the image")
    parts += [f"{name} {row[column]:.2f}" for column, name in FIGURES.items() if row.get(column) is not None]
    return " \u00b7 ".join(part.replace(" ", KEEP) for part in parts)


def _evidence_rank(row: Row) -> float:
    product = 1.0
    for column in FIGURES:
        product *= 1.0 if row[column] is None else row[column]
    return product


def _one_a_picture(rows: Iterable[Row]) -> list[Row]:
    """The first COLUMNS rows, in order, without those whose picture came before."""
    shown: dict[str, Row] = {}
    for row in rows:
        shown.setdefault(row["image_sha256"], row)
    return list(shown.values())[:COLUMNS]


def _place(sheet: Image.Image, pen: ImageDraw.ImageDraw, at: tuple[int, int], tile: Tile, images: Images) -> None:
    row, (x, y) = tile.row, at
    pen.rectangle((x, y, x + TILE - 1, y + TILE - 1), TILE_GROUND)
    size = row["height"], row["width"]
    try:
        picture = draw(images(row), size, row["rle"], tile.refused, tile.truth, TILE)
    except (AgevlmError, OSError):  # a sheet without some images still shows the masks
        picture = draw(None, size, row["rle"], tile.refused, tile.truth, TILE)
    sheet.paste(picture, (x + (TILE - picture.width) // 2, y + (TILE - picture.height) // 2))
    y += TILE + 5
    for line in _wrapped(" ".join(row["query"].split()), LINES, _font(13)):
        pen.text((x, y), line, INK, _font(13))
        y += LINE
    for line in _wrapped(caption(tile), 2, _font(12)):
        pen.text((x, y), line, SOFT, _font(12))
        y += LINE


def _wrapped(text: str, most: int, font: Any) -> list[str]:
    """The text in at most `most` lines of a tile's width; what does not fit ends in three dots."""
    lines, words = [""], text[:400].split(" ")
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer.replace(KEEP, " ")) <= TILE:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = [line.replace(KEEP, " ") for line in lines if line]
    shown = [_clipped(line, font) for line in lines[:most]]
    if len(lines) > most:
        shown[-1] = _clipped(f"{shown[-1]}...", font)
    return shown


def _clipped(line: str, font: Any) -> str:
    if font.getlength(line) <= TILE:
        return line
    line = line.removesuffix("...")
    while line and font.getlength(f"{line}...") > TILE:
        line = line[:-1]
    return f"{line}..."


def _legend(pen: ImageDraw.ImageDraw, x: int, y: int, words: str, colour: tuple[int, int, int] | None) -> int:
    """Write words, with a coloured square before them if a colour is given. Returns the place after them."""
    if colour is not None:
        pen.rectangle((x, y + 3, x + 11, y + 14), colour, outline=SOFT)
        x += 17
    pen.text((x, y), words, SOFT, _font(14))
    return x + int(_font(14).getlength(words)) + 20


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
