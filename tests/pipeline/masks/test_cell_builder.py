"""Building the table of cells in parallel: the same bytes for any number of workers, straight from the store."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.agevlm.letterbox import LETTERBOXES, RULES, fit, mask_to_cells
from model.errors import DataError
from model.teachers import rle
from pipeline.artifacts.store import ArtifactStore
from pipeline.compute.resources import Resources
from pipeline.masks import cell_builder
from pipeline.masks.cell_builder import MaskParts, build_cells
from pipeline.masks.cells import CellSettings
from tests.pipeline.masks.test_cells import mask_row, write

SETTINGS = CellSettings(64, 8)


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Masks of rectangles, in the order of a hash, some with two turns."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        mask = np.zeros((30 + index % 7, 50), dtype=bool)
        mask[rng.integers(20) :, rng.integers(40) :] = True
        made.append(mask_row(f"s{rng.integers(count)}", index, mask))
    return made


def digest(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def test_the_tables_bytes_do_not_depend_on_the_workers_or_on_where_the_parts_are(tmp_path: Path) -> None:
    made = rows(60)
    folder = write(tmp_path / "masks", made, 5)
    build_cells(folder, tmp_path / "one", SETTINGS)
    build_cells(folder, tmp_path / "four", SETTINGS, Resources(workers=4))
    assert digest(tmp_path / "one") == digest(tmp_path / "four")
    store = ArtifactStore("memory://agevlm-cells")
    files = []
    for file in sorted(folder.iterdir()):
        files.append(store.join("masks", file.name))
        store.fs.pipe_file(files[-1], file.read_bytes())
    build_cells(MaskParts(store, tuple(files), 60), tmp_path / "remote", SETTINGS)
    assert digest(tmp_path / "one") == digest(tmp_path / "remote")
    # Parts cut in another way hold the same masks.
    build_cells(write(tmp_path / "other", made, 3), tmp_path / "cut", SETTINGS)
    assert digest(tmp_path / "one") == digest(tmp_path / "cut")


@pytest.mark.system
def test_ray_tasks_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "masks", rows(60), 5)
    build_cells(folder, tmp_path / "threads", SETTINGS)
    monkeypatch.setattr(cell_builder, "RAY_FROM", 0)
    build_cells(folder, tmp_path / "ray", SETTINGS, Resources(workers=2))
    assert digest(tmp_path / "threads") == digest(tmp_path / "ray")


@given(st.sampled_from(RULES), st.sampled_from(LETTERBOXES), st.integers(0, 1000))
@settings(max_examples=20)
def test_each_row_is_the_cells_of_its_decoded_mask(rule: str, fitted: str, seed: int) -> None:
    wanted = CellSettings(64, 16, fitted, rule)
    with tempfile.TemporaryDirectory() as name:
        made = rows(12, seed)
        table = build_cells(write(Path(name) / "masks", made), Path(name) / "cells", wanted)
        expected = {}
        for row in made:
            mask = rle.decode(row["rle"], row["height"], row["width"])
            cells = mask_to_cells(mask, fit(*mask.shape, 64, 16, fitted), rule)
            if cells.any():
                expected[row["sample_id"], row["turn"]] = cells
        found = {(s, e.turn): e.cells for s in {r["sample_id"] for r in made} for e in table.lookup(s)}
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in found)
        assert table.empty == len(made) - len(expected)


def test_few_parts_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are asked for only as far as workers are free, and each result has cells, not masks."""
    asked = []

    class Counting:
        width = 2

        def submit(self, function: Any, *args: Any) -> Any:
            asked.append(args[1])
            return function(*args)

        def result(self, handle: Any) -> Any:
            return handle

    parts = MaskParts.of_folder(write(tmp_path / "masks", rows(40), 8))
    results = cell_builder._converted(parts, SETTINGS, Counting())
    next(results)
    assert len(asked) <= Counting.width + 1
    assert sum(len(part.ids) for part in results) < 40


def test_a_mask_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    row = mask_row("s7", 0, np.ones((9, 9), dtype=bool)) | {"height": 8}
    with pytest.raises(DataError, match=r"part-.*mask of s7 .* 81 pixels"):
        build_cells(write(tmp_path / "masks", [row]), tmp_path / "cells", SETTINGS)
    assert not (tmp_path / "cells").exists()
