"""Guided rows of many shapes: every EXIF orientation, extreme sizes, tiny masks, Unicode, several turns."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from model.agevlm import letterbox as real
from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.agevlm.upright import TURNS
from model.teachers import rle
from pipeline.masks.cells import Entry
from pipeline.packing.chat import TextFormat
from pipeline.packing.formats import PlainFormat
from pipeline.packing.rows import make_row
from pipeline.schemas import MASKS, PACK, part_name
from pipeline.sources.records import Turn
from pipeline.training.alignment.evidence import Fact
from pipeline.training.alignment.square import Square
from pipeline.training.data.pack_reader import PackRow, Span

BACK = {**TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""EXIF orientation -> the turn from an upright picture to the one in the file."""
SIDES = (9, 24, 40, 64, 90, 128, 200)
WORDS = (
    "red",
    "circle",
    "left",
    "of",
    "the",
    "dog",
    "caf\u00e9",
    "\u732b",
    "\U0001f600",
    "na\u00efve",
    "3.5",
    "a",
    "--",
)
PAD = 0


@dataclass
class World:
    """Rows with their facts, and a guide with the `lookup` of a CellTable."""

    processor: AgeVlmImageProcessor
    square: Square
    rows: list[tuple[PackRow, list[Fact]]]
    table: dict[str, list[Entry]]

    def lookup(self, sample_id: str) -> list[Entry]:
        return self.table.get(sample_id, [])


def image_processor(letterbox: str = "mean", side: int = 96, stride: int = 16) -> AgeVlmImageProcessor:
    return AgeVlmImageProcessor(image_size=side, stride=stride, letterbox=letterbox)


def make_world(
    forms: Sequence[TextFormat], seed: int, count: int, letterbox: str = "mean", rule: str = "any", *, wild: bool = True
) -> World:
    """Rows from a seed. `wild`: with square pictures, slivers and tiny masks, which reveal little."""
    processor = image_processor(letterbox)
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    square = Square(processor.image_size, processor.stride, letterbox, rule, mean, std)
    world = World(processor, square, [], {})
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        row, facts, entries = _row(f"s{number:06d}", rng, forms[number % len(forms)], square, wild)
        world.rows.append((row, facts))
        world.table[row.sample_id] = entries
    return world


def draw(rng: np.random.Generator, wild: bool) -> tuple[Image.Image, np.ndarray[Any, np.dtype[np.bool_]]]:
    """An upright picture and the mask of its object."""
    height, width = (int(rng.choice(SIDES)) for _ in range(2))
    if not wild:
        height, width = [(60, 90), (100, 64), (48, 128)][int(rng.integers(3))]
    coarse = rng.uniform(0, 255, (3, 3, 3)).astype(np.uint8)
    ground = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
    mask = np.zeros((height, width), dtype=bool)
    high = max(1, int(height * rng.uniform(0.02 if wild else 0.15, 0.6)))
    wide = max(1, int(width * rng.uniform(0.02 if wild else 0.15, 0.6)))
    top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    mask[top : top + high, left : left + wide] = True
    mask[top : top + high // 2, left + wide // 2 + 1 : left + wide] = False
    ground[mask] = rng.integers(0, 256, 3)
    return Image.fromarray(ground), mask


def file_of(picture: Image.Image, orientation: int, lossless: bool) -> bytes:
    """The image file of an upright picture, stored turned, with the orientation that turns it back."""
    sink = io.BytesIO()
    exif = Image.Exif()
    if orientation != 1:
        picture = picture.transpose(BACK[orientation])
        exif[0x0112] = orientation
    picture.save(sink, "PNG" if lossless else "JPEG", exif=exif, **({} if lossless else {"quality": 92}))
    return sink.getvalue()


def _text(rng: np.random.Generator, mark: str) -> str:
    words = [str(word) for word in rng.choice(WORDS, int(rng.integers(1, 7)))]
    return (" " if rng.random() < 0.8 else "").join([mark, *words]) + str(rng.choice(["?", ".", "", "!!"]))


def _row(
    name: str, rng: np.random.Generator, form: TextFormat, square: Square, wild: bool
) -> tuple[PackRow, list[Fact], list[Entry]]:
    picture, mask = draw(rng, wild)
    orientation = int(rng.integers(1, 9))
    data = file_of(picture, orientation, bool(rng.random() < 0.3))
    plain = isinstance(form, PlainFormat)
    count = 1 if plain else int(rng.integers(1 if wild else 2, 4))
    turns = [Turn(_text(rng, f"Q{n}"), _text(rng, f"A{n}")) for n in range(count)]
    made = make_row(form, turns, 512)
    row = PackRow(
        name,
        data,
        np.array(made.input_ids),
        np.array(made.target),
        np.array(made.token_starts),
        np.array(made.token_ends),
        tuple(Span(**turn) for turn in made.turns),
    )
    turn = int(rng.integers(count))
    text = f"{turns[turn].question} {turns[turn].answer}"
    question, kinds = len(turns[turn].question), ("caption", "question", "question_and_answer")
    kind = kinds[0] if plain else str(rng.choice(kinds))
    start, end = {"caption": (question + 1, len(text)), "question": (0, question)}.get(kind, (0, len(text)))
    if wild and rng.random() < 0.2:
        end = start + len(text[start : start + max(3, (end - start) // 2)].rstrip())  # as Florence-2 shortens it
    height, width = mask.shape
    fact = Fact(
        sample_id=name,
        turn=turn,
        query_kind=kind,
        char_start=start,
        char_end=end,
        image_sha256=hashlib.sha256(data).hexdigest(),
        height=height,
        width=width,
        query=text[start:end],
        rle=rle.encode(mask),
        area=int(mask.sum()),
        truth=rle.encode(mask),
    )
    return row, [fact], entries_of(fact, square)


def entries_of(fact: Fact, square: Square, mask: Any = None) -> list[Entry]:
    """The entries of a fact in a CellTable, or those of another mask in its place."""
    mask = fact.mask if mask is None else mask
    geometry = real.fit(*mask.shape, square.side, square.stride, square.letterbox)
    cells = real.mask_to_cells(mask, geometry, square.rule)
    return [Entry(fact.turn, fact.query_kind, fact.char_start, fact.char_end, cells)] if cells.any() else []


def write_pack(folder: Path, rows: Sequence[PackRow], shard_rows: int = 16) -> None:
    """The rows as a pack."""
    folder.mkdir(parents=True)
    count = -(-len(rows) // shard_rows)
    for shard in range(count):
        table = [
            {
                "sample_id": row.sample_id,
                "image": row.image,
                "image_sha256": None if row.image is None else hashlib.sha256(row.image).hexdigest(),
                "image_bytes": len(row.image or b""),
                "length": len(row.input_ids),
                "input_ids": row.input_ids.tolist(),
                "target": row.target.tolist(),
                "token_starts": row.starts.tolist(),
                "token_ends": row.ends.tolist(),
                "turns": [vars(span) for span in row.spans],
            }
            for row in rows[shard * shard_rows : (shard + 1) * shard_rows]
        ]
        pq.write_table(pa.Table.from_pylist(table, schema=PACK), folder / part_name(shard, count), row_group_size=4)


def write_masks(folder: Path, facts: Sequence[Fact]) -> None:
    """The facts as a masks artifact's data, with a rejected row beside them."""
    folder.mkdir(parents=True)
    rows = [
        {**{name: value for name, value in vars(fact).items() if name != "truth"}, "status": "ok", "reason": None}
        for fact in facts
    ]
    rows.append({**rows[0], "sample_id": "low_quality", "status": "low_quality", "reason": "min_area", "rle": None})
    half = len(rows) // 2
    for part, chosen in enumerate((rows[:half], rows[half:])):
        pq.write_table(pa.Table.from_pylist(chosen, schema=MASKS), folder / part_name(part, 2))
