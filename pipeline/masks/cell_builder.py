"""Builds the table of cells (`CellTable`) from a masks artifact, in parallel over its parts.

Each part is read from the store by the worker that converts it, so that workers may be on other machines. The table's
bytes depend on the masks and the settings only.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from model.agevlm.letterbox import Geometry, fit, runs_to_cells
from model.errors import DataError
from model.teachers import rle
from pipeline.artifacts.atomic import new_folder
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.compute.resources import Resources
from pipeline.compute.workers import Workers, ordered, workers_for
from pipeline.masks.cells import BITS, FACTS, IDS, KEY, KEYS, CellSettings, CellTable
from pipeline.masks.parts import read_part
from pipeline.schemas import MASKS

RAY_FROM = 40_000  # masks: a thread converts about 1,000 a second, and starting Ray's workers takes many seconds


@dataclass(frozen=True)
class MaskParts:
    """The parts (MASKS) of a masks artifact, in order, and their number of rows. Can be sent to workers."""

    store: ArtifactStore
    files: tuple[str, ...]
    """Paths in the store's file system."""
    rows: int

    @classmethod
    def of_artifact(cls, artifact: Artifact) -> Self:
        """The parts of a published artifact; nothing is downloaded. Raises DataError if it has none."""
        files = [artifact.path(file) for file in artifact.matching("part-", ".parquet")]
        return cls._made(artifact.store, files, artifact.manifest.counts.rows_out, str(artifact.ref))

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """The parts in a local folder. Raises DataError if it has none."""
        files = sorted(str(file) for file in folder.resolve().glob("part-*.parquet"))
        return cls._made(ArtifactStore(str(folder.resolve())), files, 0, str(folder))

    @classmethod
    def _made(cls, store: ArtifactStore, files: list[str], rows: int, name: str) -> Self:
        if not files:
            raise DataError(f"{name} holds no part-*.parquet; run masks again")
        return cls(store, tuple(sorted(files)), rows)


@dataclass(frozen=True)
class PartCells:
    """The accepted masks of one part that set a cell, in the part's order."""

    ids: npt.NDArray[np.bytes_]
    kinds: list[str]
    """Query kinds; a key has the number of one."""
    keys: npt.NDArray[np.void]
    bits: npt.NDArray[np.uint8]
    """(masks, bytes) packed cells."""
    empty: int
    """Accepted masks that set no cell."""


def build_cells(
    masks: MaskParts | Path, folder: Path, settings: CellSettings, resources: Resources | None = None
) -> CellTable:
    """Turn the accepted masks into a table in `folder`; opens it if it is there already.

    Args:
        masks: the parts, or a local folder with them.
        resources: the calls that may run at once; by default one.

    Raises DataError if there are no parts, if a mask does not fit its image, or if `folder` holds a table of other
    settings.
    """
    if not folder.exists():
        parts = masks if isinstance(masks, MaskParts) else MaskParts.of_folder(masks)
        with new_folder(folder) as partial, workers_for(parts.rows, RAY_FROM, resources or Resources()) as workers:
            _write(list(_converted(parts, settings, workers)), partial, settings)
    table = CellTable.open(folder)
    if table.settings != settings:
        raise DataError(f"{folder} holds cells for {table.settings}, not for {settings}; give another folder")
    return table


def _converted(parts: MaskParts, settings: CellSettings, workers: Workers) -> Iterator[PartCells]:
    """Each part's cells, in order. A worker holds one part, and the driver only cells: about 150 bytes a mask."""
    return ordered(workers, part_cells, ((parts.store, file, settings) for file in parts.files))


def part_cells(store: ArtifactStore, file: str, settings: CellSettings) -> PartCells:
    """Convert the accepted masks of one part. Raises DataError."""
    table = read_part(file, MASKS, store.fs)
    place = lru_cache(maxsize=64)(
        lambda height, width: fit(height, width, settings.side, settings.stride, settings.letterbox)
    )
    rows, bits, empty = [], [], 0
    for row in table.filter(pc.equal(table["status"], "ok")).to_pylist():
        cells = _cells(row, place(row["height"], row["width"]), settings.rule, file)
        if cells.any():
            rows.append(row)
            bits.append(np.packbits(cells.reshape(-1)))
        else:
            empty += 1
    kinds = sorted({row["query_kind"] for row in rows})
    keys = [(row["turn"], kinds.index(row["query_kind"]), row["char_start"], row["char_end"]) for row in rows]
    width = (settings.grid * settings.grid + 7) // 8
    return PartCells(
        ids=np.array([row["sample_id"].encode("ascii") for row in rows] or np.empty(0, dtype="S1")),
        kinds=kinds,
        keys=np.array(keys, dtype=KEY),
        bits=np.array(bits, dtype=np.uint8).reshape(len(rows), width),
        empty=empty,
    )


def _cells(row: dict[str, Any], geometry: Geometry, rule: str, file: str) -> npt.NDArray[np.bool_]:
    try:
        return runs_to_cells(rle.boundaries(row["rle"]), geometry, rule)
    except ValueError as error:
        raise DataError(f"{file}: the mask of {row['sample_id']} is damaged ({error}); run masks again") from error


def _write(parts: list[PartCells], folder: Path, settings: CellSettings) -> None:
    kinds = sorted({kind for part in parts for kind in part.kinds})
    ids, keys, bits = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "keys", "bits"))
    keys["kind"] = np.concatenate(
        [np.array([kinds.index(k) for k in part.kinds], dtype=np.int32)[part.keys["kind"]] for part in parts]
    )
    # By sample id: `CellTable.lookup` searches the mapped ids by bisection. The last key sorts first.
    order = np.lexsort((keys["char_end"], keys["char_start"], keys["kind"], keys["turn"], ids))
    for name, column in ((IDS, ids), (KEYS, keys), (BITS, bits)):
        np.save(folder / name, column[order])
    facts: dict[str, Any] = {"settings": vars(settings), "kinds": kinds, "empty": sum(part.empty for part in parts)}
    (folder / FACTS).write_text(json.dumps(facts), encoding="ascii")
