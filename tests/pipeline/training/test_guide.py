"""Masks to packed cells and back, by sample."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.agevlm.letterbox import fit, mask_to_cells
from model.errors import DataError
from model.teachers import rle
from pipeline.schemas import MASKS, part_name
from pipeline.training.guide import Canvas, MaskGuide, build_guide, canvas_of

CANVAS = Canvas(side=96, stride=32, fit="letterbox")


def mask_row(sample: str, turn: int, mask: np.ndarray[Any, Any] | None, kind: str = "question") -> dict[str, Any]:
    height, width = (40, 60) if mask is None else mask.shape
    return {
        **dict.fromkeys(MASKS.names),
        "sample_id": sample,
        "turn": turn,
        "query_kind": kind,
        "char_start": turn,
        "char_end": turn + 5,
        "height": height,
        "width": width,
        "status": "no_region" if mask is None else "accepted",
        "rle": None if mask is None else rle.encode(mask),
    }


def write_masks(folder: Path, rows: list[dict[str, Any]], shards: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(shards):
        table = pa.Table.from_pylist(rows[index::shards], schema=MASKS)
        pq.write_table(table, folder / part_name(index, shards))
    return folder


def blob(seed: int, height: int, width: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), dtype=bool)
    y, x = rng.integers(height), rng.integers(width)
    mask[y : y + 1 + rng.integers(height), x : x + 1 + rng.integers(width)] = True
    return mask


@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(1, 50))
def test_cells_survive_packing(tmp_path_factory: pytest.TempPathFactory, seed: int, height: int, width: int) -> None:
    folder = tmp_path_factory.mktemp("masks")
    mask = blob(seed, height, width)
    build_guide(write_masks(folder, [mask_row("a", 0, mask)]), CANVAS, "any", folder / "cells")
    (turn,) = MaskGuide(folder / "cells").turns("a")
    expected = mask_to_cells(mask, fit(height, width, CANVAS.side, CANVAS.stride, CANVAS.fit)).reshape(-1)
    assert np.array_equal(turn.cells, expected)
    assert turn.cells.any()


def test_turns_are_found_by_sample_in_order(tmp_path: Path) -> None:
    full = np.ones((40, 60), dtype=bool)
    rows = [mask_row(s, t, full) for s, t in (("b", 3), ("a", 0), ("b", 1), ("a#1", 0), ("c", 2))]
    rows += [mask_row("b", 0, None), mask_row("z", 0, None)]
    found = build_guide(write_masks(tmp_path / "m", rows), CANVAS, "any", tmp_path / "cells")
    guide = MaskGuide(tmp_path / "cells")
    assert found == {"accepted": 5, "no_region": 2}
    assert len(guide) == 5
    assert [t.turn for t in guide.turns("b")] == [1, 3]
    assert [(t.char_start, t.char_end) for t in guide.turns("c")] == [(2, 7)]
    assert [len(guide.turns(s)) for s in ("a", "a#1", "z", "0", "zz")] == [1, 1, 0, 0, 0]
    assert len(guide.turns("a")[0].cells) == 9


def test_a_table_without_masks_is_empty_and_a_folder_without_shards_refused(tmp_path: Path) -> None:
    build_guide(write_masks(tmp_path / "m", [mask_row("a", 0, None)]), CANVAS, "any", tmp_path / "cells")
    assert MaskGuide(tmp_path / "cells").turns("a") == []
    with pytest.raises(DataError, match=r"holds no part-\*.parquet"):
        build_guide(tmp_path, CANVAS, "any", tmp_path / "cells")


def test_the_canvas_is_read_from_a_saved_student(tmp_path: Path) -> None:
    AgeVlmImageProcessor(image_size=64, stride=16, fit="pad").save_pretrained(tmp_path)
    assert canvas_of(tmp_path) == Canvas(64, 16, "pad")
    with pytest.raises(DataError, match="has no image processor"):
        canvas_of(tmp_path / "nothing")
