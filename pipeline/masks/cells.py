"""Masks on the student's grid of image cells: one memory-mapped table per training stage (M' of eq. 3).

A row is a few bytes (72 at 24 x 24), keyed by sample, turn and query kind. It has the character range of the text that
was sent to Florence-2, so that the guided tokens are known exactly. All workers of a machine share the mapped pages.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from model.agevlm.letterbox import fit, mask_to_cells
from model.errors import DataError
from model.teachers import rle
from pipeline.artifacts.atomic import new_folder
from pipeline.masks.parts import read_part
from pipeline.schemas import MASKS

FACTS, IDS, KEYS, BITS = "cells.json", "ids.npy", "keys.npy", "bits.npy"
KEY = np.dtype([("turn", "<i4"), ("kind", "<i4"), ("char_start", "<i4"), ("char_end", "<i4")])


@dataclass(frozen=True)
class CellSettings:
    """The geometry of the student's input, and the rule by which a mask sets a cell."""

    side: int
    """Side of the student's square input in pixels."""
    stride: int
    """Side of a cell in pixels."""
    letterbox: str = "mean"
    """Fit of an image into the square: 'mean', 'zero' or 'squash'."""
    rule: str = "any"
    """Rule for cells that a mask covers in part: 'any', 'half' or 'nearest'."""

    @property
    def grid(self) -> int:
        """Cells per side."""
        return self.side // self.stride


@dataclass(frozen=True)
class Entry:
    """One mask of a sample on the student's grid."""

    turn: int
    query_kind: str
    char_start: int
    char_end: int
    """Characters of the turn's text that the mask was made from."""
    cells: npt.NDArray[np.bool_]
    """(grid, grid), never empty."""


class CellTable:
    """The accepted masks of a masks artifact as cells, open for reading."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / FACTS).read_text(encoding="ascii"))
        self.settings = CellSettings(**facts["settings"])
        self.empty: int = facts["empty"]
        """Number of accepted masks that set no cell; they are not in the table."""
        self._kinds: list[str] = facts["kinds"]
        self._ids = np.load(folder / IDS, mmap_mode="r")
        self._keys = np.load(folder / KEYS, mmap_mode="r")
        self._bits = np.load(folder / BITS, mmap_mode="r")

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a table that `build_cells` wrote. Raises DataError if it is missing."""
        try:
            return cls(folder)
        except FileNotFoundError as error:
            raise DataError(f"{folder} holds no table of cells ({error.filename} is missing); make it again") from error

    def __len__(self) -> int:
        return len(self._keys)

    def lookup(self, sample_id: str) -> list[Entry]:
        """The masks of a sample, sorted by turn and query kind; an empty list if it has none."""
        key = sample_id.encode("ascii")
        if len(key) > self._ids.dtype.itemsize:
            return []
        first, last = (int(np.searchsorted(self._ids, key, side)) for side in ("left", "right"))
        return [self._entry(row) for row in range(first, last)]

    def _entry(self, row: int) -> Entry:
        grid = self.settings.grid
        turn, kind, start, end = (int(value) for value in self._keys[row].tolist())
        flat = np.unpackbits(self._bits[row], count=grid * grid)
        return Entry(turn, self._kinds[kind], start, end, flat.reshape(grid, grid).astype(bool))


def build_cells(masks: Path, folder: Path, settings: CellSettings) -> CellTable:
    """Turn the accepted masks (folder with MASKS parts) into a table in `folder`; opens it if it is there already.

    Raises DataError if there are no masks parts or if `folder` holds a table of other settings.
    """
    if not folder.exists():
        with new_folder(folder) as partial:
            _write(masks, partial, settings)
    table = CellTable.open(folder)
    if table.settings != settings:
        raise DataError(f"{folder} holds cells for {table.settings}, not for {settings}; give another folder")
    return table


def _write(masks: Path, folder: Path, settings: CellSettings) -> None:
    files = sorted(masks.glob("part-*.parquet"))
    if not files:
        raise DataError(f"{masks} holds no part-*.parquet; run masks again")
    rows: list[tuple[str, int, str, int, int, bytes]] = []
    empty = 0
    for file in files:
        table = read_part(file, MASKS)
        for row in table.filter(pc.equal(table["status"], "accepted")).to_pylist():
            cells = _cells(row, settings)
            if not cells.any():
                empty += 1
                continue
            key = (row["sample_id"], row["turn"], row["query_kind"], row["char_start"], row["char_end"])
            rows.append((*key, np.packbits(cells.reshape(-1)).tobytes()))
    rows.sort()  # by sample id: `CellTable.lookup` searches the mapped ids by bisection
    kinds = sorted({row[2] for row in rows})
    width = (settings.grid * settings.grid + 7) // 8
    keys = np.array([(turn, kinds.index(kind), start, end) for _, turn, kind, start, end, _ in rows], dtype=KEY)
    bits = np.frombuffer(b"".join(row[-1] for row in rows), dtype=np.uint8).reshape(len(rows), width)
    np.save(folder / IDS, np.array([row[0].encode("ascii") for row in rows] or np.empty(0, dtype="S1")))
    np.save(folder / KEYS, keys)
    np.save(folder / BITS, bits)
    facts: dict[str, Any] = {"settings": vars(settings), "kinds": kinds, "empty": empty}
    (folder / FACTS).write_text(json.dumps(facts), encoding="ascii")


def _cells(row: dict[str, Any], settings: CellSettings) -> npt.NDArray[np.bool_]:
    height, width = row["height"], row["width"]
    geometry = fit(height, width, settings.side, settings.stride, settings.letterbox)
    return mask_to_cells(rle.decode(row["rle"], height, width), geometry, settings.rule)
