"""Masks as COCO's compressed run-length encoding: a `counts` string and the frame's height and width.

A thin layer over pycocotools, so that every mask of the project is written and measured in one way. Imports no torch.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

Mask = npt.NDArray[np.bool_]  # (H, W)


def encode(mask: Mask) -> str:
    """The counts of a bool mask (H, W)."""
    if mask.ndim != 2:
        raise ValueError(f"a mask has two axes (height, width), got shape {mask.shape}")
    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts.decode("ascii")


def decode(counts: str, height: int, width: int) -> Mask:
    """The bool mask (height, width) of its counts."""
    mask: Mask = coco.decode(_object(counts, height, width)).astype(bool)
    return mask


def boundaries(counts: str) -> npt.NDArray[np.int64]:
    """(2n,) the starts and ends of the n runs of ones, in turn, as places in the mask's columns, one after the other.

    A place is `column * height + row`. The last run may be empty. Much cheaper than the bitmap. Raises ValueError if
    `counts` is no encoding.
    """
    code = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    final = (code & 0x20) == 0  # of the characters of a number: 5 bits each, the least first, signed
    if not len(code) or not final[-1]:
        raise ValueError(f"{counts!r} is no run-length encoding")
    last = np.flatnonzero(final)
    first = np.concatenate(([0], last[:-1] + 1))
    length = last - first + 1
    digit = np.arange(len(code)) - np.repeat(first, length)
    numbers = np.add.reduceat((code & 0x1F) << (5 * digit), first)
    numbers -= np.where(code[last] & 0x10, np.int64(1) << (5 * length), 0)
    # From the fourth number on, each is the difference to the one before the last.
    numbers[1::2], numbers[2::2] = np.cumsum(numbers[1::2]), np.cumsum(numbers[2::2])
    ends = np.cumsum(numbers)
    return ends if len(ends) % 2 == 0 else np.append(ends, ends[-1])


def area(counts: str, height: int, width: int) -> int:
    """Pixels of a mask, without decoding it."""
    return int(coco.area(_object(counts, height, width)))


def union(parts: Sequence[str], height: int, width: int) -> str:
    """The union of one or more masks of the same frame. Raises ValueError if there is none."""
    return _merge(parts, height, width, intersect=False)


def intersection(parts: Sequence[str], height: int, width: int) -> str:
    """The intersection of one or more masks of the same frame. Raises ValueError if there is none."""
    return _merge(parts, height, width, intersect=True)


def iou(first: str, second: str, height: int, width: int) -> float:
    """Intersection over union of two masks of the same frame; 0 where both are empty."""
    both = area(intersection([first, second], height, width), height, width)
    either = area(first, height, width) + area(second, height, width) - both
    return both / either if either else 0.0


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> str:
    """The union of polygons, each flat [x0, y0, x1, y1, ...] in pixels with at least three points.

    Points outside the frame are moved to its border first: pycocotools would write past it.
    """
    if not polygons:
        raise ValueError("at least one polygon is needed")
    flat = []
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon needs at least three x, y pairs, got {len(polygon)} numbers")
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise ValueError("a polygon's coordinates must be finite")
        flat.append(np.clip(points, 0, [width, height]).reshape(-1).tolist())
    return _counts(coco.merge(coco.frPyObjects(flat, height, width)))


def _object(counts: str, height: int, width: int) -> dict[str, object]:
    return {"size": [height, width], "counts": counts.encode("ascii")}


def _merge(parts: Sequence[str], height: int, width: int, intersect: bool) -> str:
    if not parts:
        raise ValueError("at least one mask is needed")
    return _counts(coco.merge([_object(part, height, width) for part in parts], intersect=intersect))


def _counts(merged: dict[str, bytes]) -> str:
    return merged["counts"].decode("ascii")
