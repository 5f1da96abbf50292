"""The contact sheet: which masks it chooses, and that it can always be drawn."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.errors import DataError
from model.teachers import rle
from pipeline.masks.config import MaskGates
from pipeline.report.contact_sheet import COLUMNS, POOL, ContactSheet, caption
from pipeline.report.sample import Row
from pipeline.schemas import CONTACT_SHEET, MASKS
from tests.pipeline.masks.fixtures_dataset import make_dataset
from tests.pipeline.report.fixtures_mask_artifacts import make_masks

FULL = rle.encode(np.ones((8, 8), bool))


def mask_row(number: int, status: str = "ok", picture: int | None = None, **changes: Any) -> Row:
    return {
        **dict.fromkeys(MASKS.names),
        "sample_id": f"s{number}",
        "turn": 0,
        "query_kind": "caption",
        "image_sha256": f"{number if picture is None else picture:064x}",
        "height": 8,
        "width": 8,
        "query": f"thing {number}",
        "status": status,
        "reason": "min_area" if status == "low_quality" else "",
        "rle": FULL if status == "ok" else None,
        "polygon_score": 0.9,
        **changes,
    }


def white(_: Row) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(buffer, "PNG")
    return buffer.getvalue()


def gone(row: Row) -> bytes:
    raise DataError(f"{row['sample_id']} is gone")


def sheet_of(rows: list[tuple[Row, float | None]]) -> ContactSheet:
    sheet = ContactSheet()
    for row, iou in rows:
        sheet.add(row, {"instances": [{"rle": FULL}]}, None if iou is None else FULL, iou)
    return sheet


def numbers(sheet: ContactSheet) -> dict[str, list[int]]:
    return {title: [int(t.row["sample_id"][1:]) for t in tiles] for title, tiles in sheet.tiles().items()}


def test_best_and_worst_are_those_by_the_truth() -> None:
    order = np.random.default_rng(0).permutation(3000)
    found = numbers(sheet_of([(mask_row(int(n)), n / 3000) for n in order]))
    assert found["Best by IoU with the truth"] == [2999 - k for k in range(COLUMNS)]
    assert found["Worst by IoU with the truth"] == list(range(COLUMNS))
    assert len(found["At random"]) == COLUMNS
    assert found["Stopped by a gate"] == []


def test_without_a_truth_the_figures_decide_and_order_changes_nothing() -> None:
    rows: list[tuple[Row, float | None]] = [(mask_row(n, polygon_score=n / 200, sam_iou=0.5), None) for n in range(200)]
    found = numbers(sheet_of(rows))
    assert found["Best by the teachers' figures"] == [199 - k for k in range(COLUMNS)]
    assert found == numbers(sheet_of(rows[::-1]))


def test_a_picture_comes_once_in_a_row_of_the_sheet() -> None:
    found = numbers(sheet_of([(mask_row(n, picture=n // 3), n / 60) for n in range(60)]))
    assert found["Best by IoU with the truth"] == [59, 56, 53, 50, 47, 44]
    for chosen in found.values():
        assert len({n // 3 for n in chosen}) == len(chosen)


def test_a_picture_stays_at_the_place_of_its_best_mask() -> None:
    ranks = {0: 0.9, 1: 0.8, 2: 0.7, 3: 0.6, 4: 0.5, 5: 0.4, 6: 0.3, 7: 0.2}
    found = numbers(sheet_of([(mask_row(n, picture=0 if n == 7 else n), iou) for n, iou in ranks.items()]))
    assert found["Best by IoU with the truth"] == [0, 1, 2, 3, 4, 5]
    assert found["Worst by IoU with the truth"] == [7, 6, 5, 4, 3, 2]


def test_few_rows_are_kept_of_many() -> None:
    sheet = sheet_of([(mask_row(n, "low_quality" if n % 2 else "ok"), None) for n in range(20_000)])
    assert len(sheet._tiles) <= 64 * POOL
    assert [len(tiles) for tiles in sheet.tiles().values()] == [COLUMNS] * 4


@pytest.mark.parametrize("images", [white, gone], ids=["images", "no images"])
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(mask_row(0), 0.5)],
        [(mask_row(0, "low_quality"), None)],
        [(mask_row(0, "no_region"), None), (mask_row(1, "error"), None)],
        [(mask_row(n, query="\u732b " * 300 + "x" * 900), None) for n in range(20)],
        [(mask_row(0, query=""), 0.0)],
    ],
    ids=["empty", "one", "none accepted", "no mask at all", "long texts", "no text"],
)
def test_a_sheet_can_always_be_drawn(rows: list[tuple[Row, float | None]], images: Any) -> None:
    with Image.open(io.BytesIO(sheet_of(rows).jpeg("pretrain", len(rows), images))) as picture:
        picture.load()
        assert picture.width > 1200
        assert picture.height > 300


def test_captions_name_the_gate_and_the_truth() -> None:
    sheet = sheet_of([(mask_row(0, sam_iou=0.75), 0.5), (mask_row(1, "low_quality"), None)])
    sheet.add(mask_row(2), {"instances": []}, None, 0.0)
    words = {t.row["sample_id"]: caption(t).replace("\u00a0", " ") for tiles in sheet.tiles().values() for t in tiles}
    assert words["s0"] == "IoU 0.50 \u00b7 Florence 0.90 \u00b7 SAM 0.75"
    assert words["s1"].startswith("min_area \u00b7 Florence")
    assert words["s2"].startswith("not in the image")


def test_the_step_draws_the_pictures_of_its_own_data_set(tmp_path: Path) -> None:
    """The image is on the sheet, and a lost image changes the sheet only."""
    dataset = make_dataset(tmp_path, scenes=6)
    whole = make_masks(dataset, 0, MaskGates(), change={})
    for file in dataset.images.iterdir():
        file.rename(file.with_suffix(".away"))
    blank = make_masks(dataset, 0, MaskGates(min_sam_iou=0.50001), change={})
    with whole.open(CONTACT_SHEET) as first, blank.open(CONTACT_SHEET) as second:
        drawn, plain = (np.asarray(Image.open(io.BytesIO(s.read()))).astype(int) for s in (first, second))
    assert drawn.shape == plain.shape
    assert np.abs(drawn - plain).mean() > 5
    content = {file.path: file.sha256 for file in whole.manifest.files if file.path.startswith("part-")}
    assert content == {file.path: file.sha256 for file in blank.manifest.files if file.path.startswith("part-")}
    assert whole.manifest.content_sha256 != whole.manifest.sha256
