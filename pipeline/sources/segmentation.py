"""One COCO segmentation (polygons, or run lengths as a list or as compressed text) as compressed run lengths.

Everything is checked before pycocotools sees it, because its C code trusts its input.
"""

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from pipeline.sources.coco_file import BadEntry, size_of

REACH = 4  # a polygon's corner further out than this many image sizes is an error; rounding stays far below it
MAX_OUTLINE = 2_000_000  # pixels; pycocotools keeps 80 bytes for each of them
_BYTES_AS_TEXT = re.compile(r"b'([0-o]*)'")  # Python's text of a bytes object; run lengths are the characters 0 to o


class Mask(NamedTuple):
    """The mask of one annotation."""

    counts: bytes
    """`counts` of COCO's compressed run-length encoding."""
    repair: str
    """The form that was read although it is not COCO's: 'flat_polygon' or 'bytes_as_text'; mostly empty."""


def read_segmentation(segmentation: Any, height: int, width: int) -> Mask:
    """The mask of an annotation in an image of this size in pixels. It has at least one pixel.

    Raises BadEntry with reason 'no_segmentation', 'bad_segmentation' (neither a list nor an object), 'bad_polygon',
    'bad_run_lengths', 'wrong_size' (run lengths of an image of another size) or 'empty_mask' (no pixel in the image).
    """
    if segmentation is None or segmentation == []:
        raise BadEntry("no_segmentation", "has no segmentation")
    if isinstance(segmentation, dict):
        rles, repair = _runs(segmentation, height, width)
    elif isinstance(segmentation, list):
        rles, repair = _polygons(segmentation, height, width)
    else:
        raise BadEntry("bad_segmentation", f"is {type(segmentation).__name__}, not polygons or run lengths")
    rle = coco.merge(rles) if len(rles) > 1 else rles[0] if rles else None
    if rle is None or not coco.area(rle):
        raise BadEntry("empty_mask", f"the segmentation covers no pixel of the {height} x {width} image")
    return Mask(rle["counts"], repair)


def _polygons(segmentation: list[Any], height: int, width: int) -> tuple[list[Any], str]:
    """A list of numbers is one polygon. Polygons of one or two points cover nothing and are left out."""
    flat = not any(isinstance(item, list) for item in segmentation)
    if flat and len(segmentation) < 6:
        raise BadEntry("bad_polygon", f"segmentation is {len(segmentation)} values in a list; a polygon has 6 or more")
    limit = REACH * max(height, width)
    corners = [_corners(polygon, limit) for polygon in ([segmentation] if flat else segmentation)]
    areas = [polygon for polygon in corners if len(polygon) >= 6]
    return list(coco.frPyObjects(areas, height, width)) if areas else [], "flat_polygon" if flat else ""


def _corners(polygon: Any, limit: int) -> npt.NDArray[np.float64]:
    """x0, y0, x1, y1, ... in pixels. Raises BadEntry."""
    if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
        raise BadEntry("bad_polygon", "a polygon is not a list of numbers")
    if len(polygon) % 2:
        raise BadEntry("bad_polygon", f"a polygon has {len(polygon)} values, an odd number")
    try:
        values = np.array(polygon, dtype=np.float64)
    except OverflowError as error:
        raise BadEntry("bad_polygon", f"a polygon's value is too large: {error}") from error
    if not (np.abs(values) <= limit).all():  # also NaN
        raise BadEntry("bad_polygon", f"a corner is not a number, or more than {limit} pixels away")
    if len(values) * limit > MAX_OUTLINE and _outline(values) > MAX_OUTLINE:  # no side is longer than 2 * limit
        raise BadEntry("bad_polygon", f"a polygon's outline is longer than {MAX_OUTLINE} pixels")
    return values


def _outline(corners: npt.NDArray[np.float64]) -> float:
    """The pixels that pycocotools walks around a polygon: the longer of width and height of each side."""
    sides = np.abs(corners.reshape(-1, 2) - np.roll(corners, 2).reshape(-1, 2))
    return float(sides.max(axis=1).sum())


def _runs(segmentation: dict[str, Any], height: int, width: int) -> tuple[list[Any], str]:
    """Run lengths that fill the image exactly."""
    size = segmentation.get("size")
    if size is not None and not (isinstance(size, list) and len(size) == 2 and size_of(*size) == (height, width)):
        raise BadEntry("wrong_size", f"run lengths are for size {size!r:.50}, the image is {[height, width]}")
    counts, repair = segmentation.get("counts"), ""
    if isinstance(counts, str) and (match := _BYTES_AS_TEXT.fullmatch(counts)):
        counts, repair = match[1].replace("\\\\", "\\"), "bytes_as_text"
    if not isinstance(counts, list | str):
        raise BadEntry("bad_run_lengths", f"counts is {type(counts).__name__}, not a list or a text")
    runs = counts if isinstance(counts, list) else _uncompressed(counts)
    if any(type(run) is not int or run < 0 for run in runs) or sum(runs) != height * width:
        raise BadEntry("bad_run_lengths", f"the run lengths do not fill {height} x {width} pixels")
    return [coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)], repair


def _uncompressed(text: str) -> list[int]:
    """Run lengths from COCO's compressed text. Raises BadEntry.

    Each character holds 5 bits, the lowest first. From index 3 on a run is stored as the difference from the run two
    before it.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise BadEntry("bad_run_lengths", "counts is a text, but not COCO's compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value, shift = 0, 0
    if shift:
        raise BadEntry("bad_run_lengths", "counts is cut off")
    return runs
