"""Florence-2's answer as polygons, and the prompts that SAM gets from them: a box, a few inner points, a mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.teachers import rle
from model.teachers.evidence import Box, Polygon

BINS = 1000  # location tokens an axis
FIELD = 32  # cells a side of the raster in which inner points are looked for
INNER_POINTS = 3
LEAST_WIDTH = 1.0  # pixels: a region that is nowhere wider is a line or a point
FINE = 4  # cells of a pixel's side in which a polygon's area is counted
LEAST_THICKNESS = 0.5  # pixels, area / half of the outline: that of a square of one pixel

Shape = tuple[str, Sequence[Sequence[float]]]
"""The phrase of an instance ('' for the whole query) and its polygons, each flat x0, y0, x1, y1, ... in bins."""


@dataclass(frozen=True)
class Region:
    """One instance in Florence-2's answer: all its polygons, in pixels of the full image."""

    polygons: tuple[Polygon, ...]
    phrase: str = ""
    """The words of the query that it was found for; '' for the whole query."""

    @property
    def box(self) -> Box:
        """Smallest box around all polygons."""
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in self.polygons])
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)

    def rle(self, height: int, width: int) -> str:
        """Union of the polygons as run-length counts."""
        return rle.from_polygons(self.polygons, height, width)


def regions(shapes: Sequence[Shape], height: int, width: int) -> tuple[list[Region], int]:
    """The instances of a parsed answer, from location bins to pixels, and the number of polygons that were dropped.

    Args:
        shapes: the instances, as Florence-2's parser gives them for an image of BINS x BINS: there its rounding is
            exact, so the middle of each bin can be taken here without losing half a pixel.
        height, width: of the image whose squashed copy Florence-2 saw.

    Polygons without area (`has_area`) are dropped, and so are instances that have no other.
    """
    scale = np.array([width, height], dtype=np.float64) / BINS
    found, dropped = [], 0
    for phrase, polygons in shapes:
        kept = []
        for polygon in polygons:
            points = np.asarray(polygon[: len(polygon) // 2 * 2], dtype=np.float64).reshape(-1, 2)
            pixels = (points + 0.5) * scale
            if has_area(pixels, height, width):
                kept.append(tuple(float(value) for value in pixels.reshape(-1)))
            else:
                dropped += 1
        if kept:
            found.append(Region(tuple(kept), phrase))
    return found, dropped


def has_area(points: npt.NDArray[np.float64], height: int, width: int) -> bool:
    """False for a polygon (n, 2), x and y in pixels of a height x width picture, that shows no object.

    It is a point, a line, a sliver of less than a pixel (bent ones too), or an outline that runs back over itself.
    """
    if len(points) < 3:
        return False
    centred = points - points.mean(axis=0)
    narrowest = np.linalg.eigh(centred.T @ centred)[1][:, 0]  # the axis along which the points vary least
    if np.ptp(centred @ narrowest) < LEAST_WIDTH:
        return False
    outline = float(np.hypot(*(points - np.roll(points, 1, axis=0)).T).sum())
    # In quarters of a pixel, because a sliver that runs through pixels' middles fills them.
    fine = (points * FINE).reshape(-1).tolist()
    area = rle.area(rle.from_polygons([fine], height * FINE, width * FINE), height * FINE, width * FINE) / FINE**2
    return area >= LEAST_THICKNESS * outline / 2


def inner_points(region: Region, count: int = INNER_POINTS) -> npt.NDArray[np.float64]:
    """Up to `count` points (n, 2), x and y in pixels, deep inside a region and far from each other; at least one.

    The first is the point farthest from the outline; each further one has the largest smaller one of its depth and
    half its distance to those chosen. A region without area gives the middle of its box.
    """
    x0, y0, x1, y1 = region.box
    size = np.array([max(x1 - x0, 1e-6), max(y1 - y0, 1e-6)])
    middle = np.array([[(x0 + x1) / 2, (y0 + y1) / 2]])
    in_field = [
        ((np.reshape(polygon, (-1, 2)) - [x0, y0]) / size * FIELD).reshape(-1).tolist() for polygon in region.polygons
    ]
    inside = rle.decode(rle.from_polygons(in_field, FIELD, FIELD), FIELD, FIELD)
    if not inside.any():
        return middle
    cell = size / FIELD  # pixels
    candidates = _points(inside) * cell
    outside = _points(np.pad(~inside, 1, constant_values=True)) * cell - cell
    depth = np.sqrt(((candidates[:, None] - outside[None]) ** 2).sum(axis=-1)).min(axis=1)
    chosen = [int(depth.argmax())]
    while len(chosen) < count:
        apart = np.sqrt(((candidates[:, None] - candidates[chosen][None]) ** 2).sum(axis=-1)).min(axis=1)
        worth = np.minimum(depth, apart / 2)
        best = int(worth.argmax())
        if worth[best] <= 0:
            break
        chosen.append(best)
    points: npt.NDArray[np.float64] = candidates[chosen] + [x0, y0]
    return points


def _points(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Centres (n, 2) as x, y of the set cells of a raster."""
    ys, xs = np.nonzero(mask)
    return np.stack([xs, ys], axis=1).astype(np.float64) + 0.5
