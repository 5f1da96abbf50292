"""The benchmark `mask_quality` on three drawn photographs, with every figure worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.miniature.weights import weights_dir
from model.teachers import rle
from pipeline.masks.config import MaskGates
from tests.bench.mask_figures.cells import below_area, ceilings, cell_iou, differences, losses, padding_share
from tests.bench.mask_figures.coco import Photo, in_bins, masks_of_photos, read_photos
from tests.bench.mask_quality import main

HEIGHT, WIDTH = 384, 768  # drawn at its own size, 192 pixels from the top of the square: cells are 32 x 32 pixels


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A photograph of two cats, one of three pixels' width and one large, a dog, and a crowd."""
    segments: list[tuple[int, Any, int]] = [
        (1, [rectangle(2, 2, 5, 5)], 0),
        (1, [rectangle(64, 64, 192, 192)], 0),
        (2, [rectangle(320, 64, 342, 96), rectangle(400, 0, 402, 2)], 0),
        (2, {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}, 1),
    ]
    annotations = [
        {"id": n, "image_id": 7, "category_id": category, "segmentation": drawn, "iscrowd": crowd, "area": 1.0}
        for n, (category, drawn, crowd) in enumerate(segments)
    ]
    content = {
        "images": [{"id": 7, "file_name": "7.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_few.json").write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    pixels = np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)
    pixels[64:192, 64:192] = 255, 0, 0
    Image.fromarray(pixels).save(tmp_path / "images" / "7.jpg")
    return tmp_path


@pytest.fixture
def photos(folder: Path) -> list[Photo]:
    return read_photos(folder)


def test_instances_are_read_without_crowds(photos: list[Photo]) -> None:
    (photo,) = photos
    assert photo.file is not None
    assert [(item.category, item.size, int(item.mask.sum())) for item in photo.objects] == [
        ("cat", "small", 9),
        ("cat", "large", 128 * 128),
        ("dog", "small", 22 * 32 + 4),
    ]


def test_losses_by_rule(photos: list[Photo]) -> None:
    """The small cat fills 9 of a cell's 1024 pixels and not its centre; the dog 22 of 32 columns, the centre too."""
    found = losses(photos)
    assert found["instances"] == {"any": (0, 3), "half": (1, 3), "nearest": (1, 3)}
    assert found["small"] == {"any": (0, 2), "half": (1, 2), "nearest": (1, 2)}
    assert found["categories"] == {"any": (0, 2), "half": (0, 2), "nearest": (0, 2)}
    assert found["medium"]["any"] == (0, 0)
    assert padding_share(photos) == 0.5


def test_the_way_to_cells_is_exact(photos: list[Photo]) -> None:
    """A mask that is moved by one pixel is noticed."""
    assert differences(photos) == (0, 0, 3)
    (photo,) = photos
    cat = photo.objects[1]
    moved = Photo(
        photo.name,
        photo.height,
        photo.width,
        None,
        (type(cat)(cat.category, cat.polygons, np.roll(cat.mask, 1, axis=1)),),
    )
    assert differences([moved]) == (1, 1, 1)
    assert below_area(photos, 10 / (HEIGHT * WIDTH)) == 1


def test_florences_bins_cost_little(photos: list[Photo]) -> None:
    """A corner moves by half a bin at most."""
    polygon = rectangle(64, 64, 192, 192)
    moved = np.array(in_bins(polygon, HEIGHT, WIDTH)) - polygon
    across, down = np.abs(moved.reshape(-1, 2)).max(axis=0)
    assert 0 < across <= WIDTH / 2000 + 1e-9
    assert 0 < down <= HEIGHT / 2000 + 1e-9
    assert ceilings(photos)["large"] > 0.97


def test_exact_masks_pass_all_that_follows(photos: list[Photo]) -> None:
    """Nothing but the area's gate drops an exact mask, and no pixel changes on the way."""
    rows = masks_of_photos(photos, None, "box", MaskGates(min_area=0.0))
    assert [(row.asked.text, row.mask["status"], row.iou, row.accepted_iou) for row in rows] == [
        ("a cat", "ok", 1.0, 1.0),
        ("a dog", "ok", 1.0, 1.0),
    ]
    (cat, dog) = masks_of_photos(photos, None, "box", MaskGates(min_area=0.01))
    assert (cat.mask["status"], dog.mask["status"], dog.mask["reason"]) == ("ok", "low_quality", "min_area")
    assert dog.accepted_iou == 0.0


def test_sam_gets_the_oracles_boxes(photos: list[Photo]) -> None:
    """Two instances for the two cats; the large one, a plain red square, is segmented well enough to tell."""
    rows = masks_of_photos(photos, weights_dir(), "box", MaskGates())
    assert [len(row.evidence["instances"]) for row in rows] == [2, 1]
    assert rows[0].evidence["instances"][1]["box"] == pytest.approx([64, 64, 192, 192], abs=0.5)
    assert rows[0].iou > 0.5


def test_cell_iou_by_hand() -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[0:32, 0:64] = True
    half = mask.copy()
    half[:, 32:] = False
    assert cell_iou(rle.encode(mask), rle.encode(half), mask.shape, "any") == 0.5
    nothing = rle.encode(mask & ~mask)
    assert cell_iou(nothing, nothing, mask.shape, "any") == 0.0


def test_the_program_prints_figures_and_checks_bounds(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--scenes", "0", "--coco", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "mask_quality.coco_instances_lost_by_half 1" in lines
    assert "mask_quality.coco_masks_that_differ 0" in lines
    monkeypatch.setattr("tests.bench.mask_quality.differences", lambda photos: (1, 0, 3))
    assert main(["--scenes", "0", "--coco", str(folder)]) == 1
    assert "coco masks that differ is 1; its bound is 0" in capsys.readouterr().out
    monkeypatch.delenv("AGEVLM_COCO", raising=False)
    assert main(["--scenes", "0"]) == 0
    assert "photographs are skipped" in capsys.readouterr().out
