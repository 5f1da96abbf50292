"""The geometry of the student's square input, for images and for masks (paper sections 3.2.2 and C).

An image is scaled into the square and centred, with the mean colour ("mean") or black ("zero") around it, or it is
stretched over the square ("squash"). The same geometry says which cells of the encoder's map hold image pixels, and
which cells a mask touches. Both are exact: all arithmetic is on integers, and the mask is never resized.

Pixel y of an image of `height` rows that is drawn `inner_height` pixels tall covers, in units of 1/height canvas pixel,
[top * height + y * inner_height, top * height + (y + 1) * inner_height).

Shapes: H x W image pixels, h x w cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LETTERBOXES = ("mean", "zero", "squash")
EARLIER_NAMES = {"letterbox": "mean", "pad": "zero", "squash": "squash"}
"""Values of the field `fit` in checkpoints that were saved before it was called `letterbox`."""
RULES = ("any", "half", "nearest")
PIXELS_PER_BOUNDARY = 48
"""Pixels of a mask for which its bitmap takes as long as one start or end of a run (measured)."""


@dataclass(frozen=True)
class Geometry:
    """The place of an image of `height` x `width` pixels in the square of `side` pixels; stride in pixels per cell."""

    height: int
    width: int
    side: int
    stride: int
    top: int
    left: int
    inner_height: int
    inner_width: int

    @property
    def grid(self) -> int:
        """Cells along one side."""
        return self.side // self.stride


def fit(height: int, width: int, side: int, stride: int, letterbox: str = "mean") -> Geometry:
    """Place an image in the square: "mean" and "zero" keep its shape and differ in colour, "squash" stretches it.

    Raises: ValueError for an empty image, a side that is no multiple of the stride, or an unknown letterbox.
    """
    if height < 1 or width < 1:
        raise ValueError(f"image size is {height} x {width} pixels; it must have at least one pixel")
    if side < 1 or stride < 1 or side % stride:
        raise ValueError(f"side is {side} pixels and stride {stride}; side must be a positive multiple of stride")
    if letterbox not in LETTERBOXES:
        raise ValueError(f"letterbox is {letterbox!r}; choose one of {', '.join(map(repr, LETTERBOXES))}")
    if letterbox == "squash":
        return Geometry(height, width, side, stride, 0, 0, side, side)
    longest = max(height, width)
    # Rounded half up on integers; a sliver of an image keeps one pixel.
    inner_height = max(1, (2 * height * side + longest) // (2 * longest))
    inner_width = max(1, (2 * width * side + longest) // (2 * longest))
    top, left = (side - inner_height) // 2, (side - inner_width) // 2
    return Geometry(height, width, side, stride, top, left, inner_height, inner_width)


def content_cells(geometry: Geometry) -> NDArray[np.bool_]:
    """Cells with at least one image pixel: (h, w) bool, never empty."""
    rows = _occupied(geometry.top, geometry.inner_height, geometry)
    columns = _occupied(geometry.left, geometry.inner_width, geometry)
    return rows[:, None] & columns[None, :]


def mask_to_cells(mask: NDArray[np.bool_], geometry: Geometry, rule: str = "any") -> NDArray[np.bool_]:
    """M' of eq. 3: the image's mask (H, W) on the encoder's map, (h, w) bool.

    "any": a cell counts if the mask touches it. On 51 photographs of COCO, nearest sampling lost 30 % of the instances
    at 24 x 24 cells and "half" 43 %; this rule loses none, because every mask pixel lies in some cell.
    "half": at least half of the cell's area. "nearest": the mask's value at the cell's centre.

    Raises: ValueError if the mask's size is not the geometry's, or for an unknown rule.
    """
    if mask.shape != (geometry.height, geometry.width):
        raise ValueError(
            f"mask is {mask.shape}, its image {(geometry.height, geometry.width)}; give the mask in the upright frame"
        )
    if rule not in RULES:
        raise ValueError(f"mask rule is {rule!r}; choose one of {', '.join(map(repr, RULES))}")
    mask = np.asarray(mask, dtype=bool)
    if rule == "nearest":
        y, y_inside = _centres(geometry.height, geometry.top, geometry.inner_height, geometry)
        x, x_inside = _centres(geometry.width, geometry.left, geometry.inner_width, geometry)
        nearest: NDArray[np.bool_] = mask[np.ix_(y, x)] & y_inside[:, None] & x_inside[None, :]
        return nearest
    overlap_y = _overlaps(geometry.height, geometry.top, geometry.inner_height, geometry)
    overlap_x = _overlaps(geometry.width, geometry.left, geometry.inner_width, geometry)
    # float64 holds these integers exactly: a cell's area is (stride * height) * (stride * width) < 2**53.
    covered = overlap_y @ mask.astype(np.float64) @ overlap_x.T
    return _ruled(covered, geometry, rule)


def runs_to_cells(boundaries: NDArray[np.int64], geometry: Geometry, rule: str = "any") -> NDArray[np.bool_]:
    """As `mask_to_cells`, bit for bit, from a mask's runs: (h, w) bool.

    The bitmap is made only where the mask has so many runs that they would take longer.

    Args:
        boundaries: (2n,) starts and ends of the runs of ones, in turn, as places `column * height + row`.

    Raises: ValueError if the runs do not end with the geometry's last pixel, or for an unknown rule.
    """
    height, width = geometry.height, geometry.width
    if len(boundaries) % 2 or not len(boundaries) or boundaries[-1] != height * width:
        end = boundaries[-1] if len(boundaries) else 0
        raise ValueError(f"mask has {end} pixels, its image {(height, width)}; give the mask in the upright frame")
    if rule not in RULES:
        raise ValueError(f"mask rule is {rule!r}; choose one of {', '.join(map(repr, RULES))}")
    if rule == "nearest":
        y, y_inside = _centres(height, geometry.top, geometry.inner_height, geometry)
        x, x_inside = _centres(width, geometry.left, geometry.inner_width, geometry)
        started = np.searchsorted(boundaries, x[None, :] * height + y[:, None], side="right")
        return np.asarray((started % 2 == 1) & y_inside[:, None] & x_inside[None, :])
    above = _shared_before(height, geometry.top, geometry.inner_height, geometry)
    before = _shared_before(width, geometry.left, geometry.inner_width, geometry)
    exact = len(boundaries) * above.max() * before.max() < 2**53  # bounds every partial sum below
    if not exact or len(boundaries) * PIXELS_PER_BOUNDARY > height * width:
        inside = np.repeat(np.arange(len(boundaries)) % 2 == 1, np.diff(boundaries, prepend=0))
        return mask_to_cells(inside.reshape(width, height).T, geometry, rule)
    # A cell's share of all pixels before a place is that of the whole columns before it, plus that of the pixels above
    # it in its own column. A run adds the share before its end and subtracts that before its start.
    x, y = np.divmod(boundaries, height)
    column = np.concatenate((np.diff(before, axis=0), np.zeros((1, geometry.grid))))
    sign = np.tile([-1.0, 1.0], len(boundaries) // 2)
    whole = np.outer(above[-1], sign @ before[x])
    covered = whole + (above[y] * sign[:, None]).T @ column[x]
    return _ruled(covered, geometry, rule)


def _ruled(covered: NDArray[np.float64], geometry: Geometry, rule: str) -> NDArray[np.bool_]:
    """The cells of a mask from the area that it covers of each, in units of 1/height x 1/width canvas pixels."""
    if rule == "any":
        return np.asarray(covered > 0)
    cell = float(geometry.stride * geometry.height) * float(geometry.stride * geometry.width)
    return np.asarray(2 * covered >= cell)


def _occupied(start: int, length: int, geometry: Geometry) -> NDArray[np.bool_]:
    first = np.arange(geometry.grid) * geometry.stride
    return np.asarray((first < start + length) & (first + geometry.stride > start))


def _overlaps(size: int, start: int, length: int, geometry: Geometry) -> NDArray[np.float64]:
    """Length shared by every cell and every image pixel along one axis, in units of 1/size pixel: (cells, size)."""
    pixel = start * size + np.arange(size, dtype=np.int64) * length
    cell = np.arange(geometry.grid, dtype=np.int64)[:, None] * geometry.stride * size
    shared = np.minimum(cell + geometry.stride * size, pixel + length) - np.maximum(cell, pixel)
    return np.asarray(np.maximum(shared, 0), dtype=np.float64)


def _shared_before(size: int, start: int, length: int, geometry: Geometry) -> NDArray[np.float64]:
    """Length shared by all image pixels before a place and every cell, in units of 1/size pixel: (size + 1, cells)."""
    place = np.arange(size + 1, dtype=np.int64)[:, None] * length
    cell = (np.arange(geometry.grid, dtype=np.int64) * geometry.stride - start) * size
    full = geometry.stride * size
    return np.asarray(np.clip(place - cell, 0, full) - np.clip(-cell, 0, full), dtype=np.float64)


def _centres(size: int, start: int, length: int, geometry: Geometry) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The image pixel under each cell's centre along one axis, and whether there is one."""
    twice = (2 * np.arange(geometry.grid, dtype=np.int64) + 1) * geometry.stride - 2 * start
    inside = (twice >= 0) & (twice < 2 * length)
    return np.clip(twice * size // (2 * length), 0, size - 1), np.asarray(inside)


__all__ = ["EARLIER_NAMES", "Geometry", "content_cells", "fit", "mask_to_cells", "runs_to_cells"]
