"""Masks on the student's grid of image cells: one memory-mapped table per training stage (M' of eq. 3).

A row is a few bytes (72 at 24 x 24), keyed by sample, turn and query kind. It has the character range of the text that
was sent to Florence-2, so that the guided tokens are known exactly. All workers of a machine share the mapped pages.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from model.errors import DataError

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
        self._folder = folder
        facts = json.loads((folder / FACTS).read_text(encoding="ascii"))
        self.settings = CellSettings(**facts["settings"])
        self.empty: int = facts["empty"]
        """Number of accepted masks that set no cell; they are not in the table."""
        self._kinds: list[str] = facts["kinds"]
        self._ids = np.load(folder / IDS, mmap_mode="r")
        self._keys = np.load(folder / KEYS, mmap_mode="r")
        self._bits = np.load(folder / BITS, mmap_mode="r")

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Pickle the folder only: a loader process maps the same files again."""
        return type(self), (self._folder,)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a table that `build_cells` (cell_builder.py) wrote. Raises DataError if it is missing."""
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

    def has(self, sample_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(samples,) True for each sample that has a mask."""
        wanted = np.array([sample_id.encode("ascii") for sample_id in sample_ids] or np.empty(0, dtype="S1"))
        if not len(self):
            return np.zeros(len(wanted), dtype=bool)
        place = np.searchsorted(self._ids, wanted)
        return np.asarray(self._ids[np.minimum(place, len(self) - 1)] == wanted)

    def _entry(self, row: int) -> Entry:
        grid = self.settings.grid
        turn, kind, start, end = (int(value) for value in self._keys[row].tolist())
        flat = np.unpackbits(self._bits[row], count=grid * grid)
        return Entry(turn, self._kinds[kind], start, end, flat.reshape(grid, grid).astype(bool))
