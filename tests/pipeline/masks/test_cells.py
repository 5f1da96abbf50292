"""The table of cells: every accepted mask is found again, for any geometry."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.agevlm.letterbox import fit, mask_to_cells
from model.errors import DataError
from model.teachers import rle
from pipeline.masks.cell_builder import build_cells
from pipeline.masks.cells import CellSettings, CellTable
from pipeline.schemas import MASKS, part_name


def mask_row(sample: str, turn: int, mask: np.ndarray | None, status: str = "ok") -> dict[str, Any]:
    height, width = (60, 100) if mask is None else mask.shape
    return {
        **dict.fromkeys(MASKS.names),
        "sample_id": sample,
        "turn": turn,
        "query_kind": "question" if turn % 2 else "caption",
        "char_start": turn,
        "char_end": turn + 7,
        "height": height,
        "width": width,
        "status": status,
        "rle": None if mask is None else rle.encode(mask),
    }


def write(folder: Path, rows: list[dict[str, Any]], count: int = 2) -> Path:
    folder.mkdir()
    for index in range(count):
        pq.write_table(pa.Table.from_pylist(rows[index::count], schema=MASKS), folder / part_name(index, count))
    return folder


@pytest.mark.parametrize(
    "settings", [CellSettings(64, 8), CellSettings(96, 32, "squash", "half"), CellSettings(90, 30)]
)
def test_every_accepted_mask_is_found_again(tmp_path: Path, settings: CellSettings) -> None:
    rng = np.random.default_rng(0)
    masks = {(f"s{i % 17}", i): rng.random((40 + i, 70)) < 0.5 for i in range(40)}
    rows = [mask_row(sample, turn, mask) for (sample, turn), mask in masks.items()]
    rows += [mask_row(f"s{i}", 99, None, status) for i, status in enumerate(("low_quality", "no_region"))]
    table = build_cells(write(tmp_path / "masks", rows), tmp_path / "cells", settings)
    assert len(table) == 40
    assert table.empty == 0
    found = {}
    for sample in {sample for sample, _ in masks}:
        for entry in table.lookup(sample):
            assert (entry.char_start, entry.char_end) == (entry.turn, entry.turn + 7)
            assert entry.query_kind == ("question" if entry.turn % 2 else "caption")
            found[(sample, entry.turn)] = entry.cells
    assert found.keys() == masks.keys()
    for key, mask in masks.items():
        geometry = fit(*mask.shape, settings.side, settings.stride, settings.letterbox)
        assert np.array_equal(found[key], mask_to_cells(mask, geometry, settings.rule))


def test_a_sample_without_masks_has_none(tmp_path: Path) -> None:
    masks = write(tmp_path / "masks", [mask_row("bb", 0, np.ones((9, 9), dtype=bool))])
    table = build_cells(masks, tmp_path / "cells", CellSettings(64, 8))
    names = ["aa", "bb", "b", "bbb", "bb#1", "cc"]
    assert [len(table.lookup(s)) for s in names] == [0, 1, 0, 0, 0, 0]
    assert table.has(names).tolist() == [False, True, False, False, False, False]
    assert table.has([]).tolist() == []


def test_masks_that_set_no_cell_are_counted_and_left_out(tmp_path: Path) -> None:
    dot = np.zeros((100, 100), dtype=bool)
    dot[50, 50] = True
    masks = write(tmp_path / "masks", [mask_row("a", 0, dot), mask_row("b", 0, ~dot)])
    half = build_cells(masks, tmp_path / "half", CellSettings(64, 8, rule="half"))
    assert (len(half), half.empty, half.lookup("a")) == (1, 1, [])
    touched = build_cells(masks, tmp_path / "any", CellSettings(64, 8))
    assert (len(touched), touched.empty, touched.lookup("a")[0].cells.sum()) == (2, 0, 1)


def test_a_table_without_rows_can_be_opened(tmp_path: Path) -> None:
    table = build_cells(write(tmp_path / "masks", []), tmp_path / "cells", CellSettings(64, 8))
    assert (len(table), table.lookup("a"), table.has(["a"]).tolist()) == (0, [], [False])


def test_a_row_takes_72_bytes_at_24_by_24(tmp_path: Path) -> None:
    rows = [mask_row(f"{i:02d}", 0, np.ones((30, 20), dtype=bool)) for i in range(11)]
    build_cells(write(tmp_path / "masks", rows), tmp_path / "cells", CellSettings(768, 32))
    assert np.load(tmp_path / "cells" / "bits.npy").shape == (11, 72)


def test_a_table_is_built_once_and_other_settings_are_refused(tmp_path: Path) -> None:
    masks = write(tmp_path / "masks", [mask_row("a", 0, np.ones((9, 9), dtype=bool))])
    settings = CellSettings(64, 8)
    build_cells(masks, tmp_path / "cells", settings)
    stamp = (tmp_path / "cells" / "bits.npy").stat().st_mtime_ns
    build_cells(masks, tmp_path / "cells", settings)
    assert (tmp_path / "cells" / "bits.npy").stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()].count("cells") == 1
    with pytest.raises(DataError, match="give another folder"):
        build_cells(masks, tmp_path / "cells", CellSettings(32, 8))
    with pytest.raises(DataError, match="run masks again"):
        build_cells(tmp_path / "cells", tmp_path / "other", settings)
    with pytest.raises(DataError, match="make it again"):
        CellTable.open(tmp_path / "nothing")
