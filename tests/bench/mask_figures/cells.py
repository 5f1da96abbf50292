"""The student's 24 x 24 cells: masks that each rule loses, and the exactness of the way to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from model.agevlm.letterbox import RULES, Geometry, content_cells, fit, mask_to_cells, runs_to_cells
from model.teachers import rle
from tests.bench.mask_figures.coco import Photo, by_category, in_bins

SIDE, STRIDE = 768, 32  # pixels: the student's input, and one of its cells
SIZES: Final = ("small", "medium", "large")
LETTERBOX: Final = "mean"


def geometry(photo: Photo) -> Geometry:
    """A photograph's place in the student's square."""
    return fit(photo.height, photo.width, SIDE, STRIDE, LETTERBOX)


def losses(photos: Sequence[Photo]) -> dict[str, dict[str, tuple[int, int]]]:
    """Masks without a cell, and all masks, by group and rule.

    Groups: 'instances', 'small', 'medium' and 'large' ones of them (COCO's bounds), and 'categories': the union of a
    photograph's instances of one category, which is what a query gets.
    """
    found = {name: dict.fromkeys(RULES, (0, 0)) for name in ("instances", *SIZES, "categories")}

    def count(name: str, mask: npt.NDArray[np.bool_], place: Geometry) -> None:
        for rule in RULES:
            lost, of = found[name][rule]
            found[name][rule] = lost + (not mask_to_cells(mask, place, rule).any()), of + 1

    for photo in photos:
        place = geometry(photo)
        for item in photo.objects:
            count("instances", item.mask, place)
            count(item.size, item.mask, place)
        for items in by_category(photo).values():
            count("categories", np.any([item.mask for item in items], axis=0), place)
    return found


def differences(photos: Sequence[Photo]) -> tuple[int, int, int]:
    """Masks whose run-length encoding differs from pycocotools' own mask, masks whose cells differ, and all masks.

    The first compares `rle.from_polygons` with `COCO.annToMask`, pixel for pixel; the second the cells from the runs
    with those from the bitmap, by every rule.
    """
    pixels = cells = total = 0
    for photo in photos:
        place = geometry(photo)
        for item in photo.objects:
            counts = rle.from_polygons(item.polygons, photo.height, photo.width)
            pixels += not np.array_equal(rle.decode(counts, photo.height, photo.width), item.mask)
            runs = rle.boundaries(counts)
            cells += any(
                not np.array_equal(runs_to_cells(runs, place, rule), mask_to_cells(item.mask, place, rule))
                for rule in RULES
            )
            total += 1
    return pixels, cells, total


def ceilings(photos: Sequence[Photo]) -> dict[str, float]:
    """Mean IoU of the exact mask and its polygons in Florence-2's bins, by size: no answer of Florence-2 is better."""
    found: dict[str, list[float]] = {name: [] for name in SIZES}
    for photo in photos:
        for item in photo.objects:
            said = [in_bins(polygon, photo.height, photo.width) for polygon in item.polygons]
            counts = rle.from_polygons(said, photo.height, photo.width)
            found[item.size].append(rle.iou(counts, rle.encode(item.mask), photo.height, photo.width))
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def below_area(photos: Sequence[Photo], least: float) -> int:
    """Instances whose mask has a smaller share of the photograph than `least`."""
    return sum(item.mask.mean() < least for photo in photos for item in photo.objects)


def padding_share(photos: Sequence[Photo]) -> float:
    """Mean share of the square's cells that hold no pixel of the photograph."""
    return float(np.mean([1 - content_cells(geometry(photo)).mean() for photo in photos]))


def cell_iou(first: str, second: str, photo_size: tuple[int, int], rule: str) -> float:
    """IoU of two masks' cells. photo_size: height and width in pixels. 0 where both are empty."""
    place = fit(*photo_size, SIDE, STRIDE, LETTERBOX)
    one, other = (runs_to_cells(rle.boundaries(counts), place, rule) for counts in (first, second))
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 0.0
