"""The masks of a guided stage on the encoder's map: one memory-mapped table of packed bits (72 bytes for 24x24).

Masks stay in the frame of their image until a stage reads them, so a student of another size, another letterbox or
another rule for cells needs no new masks, and a new gate needs no new pack. Building reads the masks artifact only;
training looks rows up by sample id. Imports no torch.
"""

import bisect
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model.agevlm.letterbox import fit, mask_to_cells
from model.errors import DataError
from model.teachers import rle
from pipeline.schemas import MASKS

CELLS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("turn", pa.int32()),
        ("query_kind", pa.string()),
        ("char_start", pa.int32()),
        ("char_end", pa.int32()),
        ("cells", pa.binary()),  # bits of the map, row by row, the first cell in the highest bit of the first byte
    ]
)
CELLS_FILE = "cells.arrow"


@dataclass(frozen=True)
class GuidedTurn:
    """A mask of a turn, on the encoder's map, and the characters of the turn's text that it was made from."""

    turn: int
    char_start: int
    char_end: int
    cells: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Canvas:
    """The student's square input: side and stride in pixels, and how images are fitted to it."""

    side: int
    stride: int
    fit: str


def canvas_of(model_folder: Path) -> Canvas:
    """The square of a saved student. Raises DataError if its folder has no image processor."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        file = model_folder / name
        if file.is_file():
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            found = content.get("image_processor", content)
            if {"image_size", "stride", "fit"} <= found.keys():
                return Canvas(int(found["image_size"]), int(found["stride"]), str(found["fit"]))
    raise DataError(f"{model_folder} has no image processor (image_size, stride, fit); run the stage before again")


def build_guide(masks: Path, canvas: Canvas, rule: str, target: Path) -> Counter[str]:
    """Write every accepted mask of a masks artifact as cells below `target`; returns the number of rows by status.

    Args:
        masks: the artifact's data folder. rule: when a cell belongs to a mask (`mask_to_cells`).

    Raises DataError if the folder holds no masks.
    """
    parts = sorted(masks.glob("part-*.parquet"))
    if not parts:
        raise DataError(f"masks {masks} holds no part-*.parquet; run the step 'masks' again")
    found: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for row in _masks(parts):
        found[row["status"]] += 1
        if row["status"] != "accepted":
            continue
        height, width = row["height"], row["width"]
        mask = rle.decode(row["rle"], height, width)
        cells = mask_to_cells(mask, fit(height, width, canvas.side, canvas.stride, canvas.fit), rule)
        rows.append({name: row.get(name) for name in CELLS.names} | {"cells": np.packbits(cells).tobytes()})
    rows.sort(key=lambda r: (r["sample_id"], r["turn"], r["query_kind"]))
    cells_in_map = (canvas.side // canvas.stride) ** 2
    table = pa.Table.from_pylist(rows, schema=CELLS.with_metadata({"cells": str(cells_in_map)}))
    target.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(target / CELLS_FILE), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return found


def _masks(parts: list[Path]) -> Iterator[dict[str, Any]]:
    columns = ["sample_id", "turn", "query_kind", "char_start", "char_end", "height", "width", "status", "rle"]
    assert set(columns) <= set(MASKS.names)
    for part in parts:
        for batch in pq.ParquetFile(part).iter_batches(1024, columns=columns):
            yield from batch.to_pylist()


class MaskGuide:
    """Guided turns by sample id, from the file that `build_guide` wrote; memory-mapped, so workers share its pages."""

    def __init__(self, folder: Path) -> None:
        # The reader needs the mapping as long as its arrays live.
        self._map = pa.memory_map(str(folder / CELLS_FILE))
        self._table: pa.Table = pa.ipc.open_file(self._map).read_all().combine_chunks()
        self._count = int(self._table.schema.metadata[b"cells"])
        self._ids: list[str] = self._table["sample_id"].to_pylist()

    def __len__(self) -> int:
        """Number of guided turns."""
        return len(self._ids)

    def turns(self, sample_id: str) -> list[GuidedTurn]:
        """All guided turns of a sample, by turn; an empty list where there is none."""
        first = bisect.bisect_left(self._ids, sample_id)
        last = bisect.bisect_right(self._ids, sample_id, lo=first)
        return [
            GuidedTurn(row["turn"], row["char_start"], row["char_end"], self._unpack(row["cells"]))
            for row in self._table.slice(first, last - first).to_pylist()
        ]

    def _unpack(self, packed: bytes) -> npt.NDArray[np.bool_]:
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=self._count)
        return bits.astype(bool)
