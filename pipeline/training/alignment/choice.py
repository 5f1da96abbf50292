"""The rows that a proof looks at: guided ones from the beginning of training that reveal as much as possible."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.errors import DataError
from pipeline.training.alignment.evidence import Fact, find_facts
from pipeline.training.alignment.square import Square
from pipeline.training.data.order import Address
from pipeline.training.data.pack_reader import PackRow
from pipeline.training.data.samples import Samples

CANDIDATES = 4
"""Guided rows that are read for each one that is chosen."""
FIRST_LOOK = 4096
"""Rows whose ids are looked up at first; four times as many each time that they have too few masks."""
ORIENTATION = 0x0112
UNLIKE = 0.6
"""A mask is unlike its mirror image if their intersection over union on the cells is below this."""


@dataclass(frozen=True)
class Chosen:
    """The rows of a proof.

    guided: rows with their facts. others: rows without any, which go through the collator beside them.
    looked_at: rows whose ids were looked up.
    """

    guided: list[tuple[PackRow, list[Fact]]]
    others: list[PackRow]
    looked_at: int


def choose(samples: Samples, masks: Path, truth: Path | None, square: Square, count: int) -> Chosen:
    """Rows of a stage, in the order of training. Raises DataError if no row has an accepted mask."""
    looked: list[tuple[Address, str]] = []
    stream = _stream(samples)
    facts: dict[str, list[Fact]] = {}
    want = FIRST_LOOK
    while len(facts) < CANDIDATES * count:
        new = [item for _, item in zip(range(want), stream, strict=False)]
        if not new:
            break
        looked += new
        facts |= find_facts(masks, {name for _, name in new}, truth)
        want *= 4
    with_image = [(address, name) for address, name in looked if name in facts][: CANDIDATES * count]
    rows = [(samples.reader.row(address), facts[name]) for address, name in sorted(with_image)]
    rows = [(row, own) for row, own in rows if row.image is not None]
    if not rows:
        raise DataError(
            f"none of the {len(looked)} rows that are trained on has an accepted mask, so nothing would be guided; "
            "either the masks belong to other samples ('agevlm lineage' of both shows that), or the stage has too few "
            "steps to meet a guided row (training's max_steps, the data set's limit and subset)"
        )
    plain = sorted(address for address, name in looked if name not in facts)[: -(-count // 3)]
    return Chosen(_most_telling(rows, square, count), [samples.reader.row(address) for address in plain], len(looked))


def _stream(samples: Samples) -> Iterator[tuple[Address, str]]:
    """The rows of the first epoch with their sample ids, in the order of training."""
    ids: dict[int, list[str]] = {}
    seen: set[Address] = set()
    order = samples.order
    for step in range(min(order.steps, -(-order.rows // order.global_batch))):
        for address in order.batch(step):
            if address not in seen:
                seen.add(address)
                if address.shard not in ids:
                    ids[address.shard] = samples.sample_ids(address.shard)
                yield address, ids[address.shard][address.row]


def _most_telling(
    rows: Sequence[tuple[PackRow, list[Fact]]], square: Square, count: int
) -> list[tuple[PackRow, list[Fact]]]:
    """The rows that have the most of what few of those chosen before them have."""
    traits = [_traits(row, facts[0], square) for row, facts in rows]
    chosen: list[int] = []
    had: Counter[str] = Counter()
    while len(chosen) < min(count, len(rows)):
        best = max(
            (index for index in range(len(rows)) if index not in chosen),
            key=lambda index: (sum(1 / (1 + had[trait]) for trait in traits[index]), -index),
        )
        chosen.append(best)
        had.update(traits[best])
    return [rows[index] for index in chosen]


def _traits(row: PackRow, fact: Fact, square: Square) -> set[str]:
    """The properties of a row that reveal faults."""
    found = {fact.query_kind, f"EXIF {_orientation(row.image or b'')}"}
    found.add("wide" if fact.width > 1.1 * fact.height else "tall" if fact.height > 1.1 * fact.width else "square")
    found |= {"several turns"} if len(row.spans) > 1 else set()
    found |= {"truth"} if fact.truth is not None else set()
    cells = square.cells(fact.mask, square.place(fact.height, fact.width))[1].reshape(square.grid, square.grid)
    found.add("small" if cells.mean() < 0.05 else "large" if cells.mean() > 0.5 else "medium")
    images = {"mirrored": cells[:, ::-1], "upside down": cells[::-1], "turned": cells[::-1, ::-1], "across": cells.T}
    for name, image in images.items():
        if int(np.sum(cells & image)) < UNLIKE * int(np.sum(cells | image)):
            found.add(name)
    return found


def _orientation(data: bytes) -> int:
    """The EXIF orientation that the head of an image file states; 1 if none."""
    try:
        return int(Image.open(io.BytesIO(data)).getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged file only makes the choice worse; the collator names it
        return 1
