"""Florence-2's answer as polygons, and the prompts that SAM gets from them: a box, a few inner points, a mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.teachers import rle

BINS = 1000  # location tokens an axis
FIELD = 32  # cells a side of the raster in which inner points are looked for
INNER_POINTS = 3

Polygon = tuple[float, ...]  # flat x0, y0, x1, y1, ... in pixels
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class Region:
    """One instance in Florence-2's answer: all its polygons, in pixels of the full image."""

    polygons: tuple[Polygon, ...]

    @property
    def box(self) -> Box:
        """Smallest box around all polygons."""
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in self.polygons])
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)

    def rle(self, height: int, width: int) -> str:
        """Union of the polygons as run-length counts."""
        return rle.from_polygons(self.polygons, height, width)


def regions(parsed: Sequence[Sequence[Sequence[float]]], height: int, width: int) -> list[Region]:
    """The instances of a parsed answer, from location bins to pixels.

    Args:
        parsed: [instance][polygon] -> flat bins, as `post_process_generation` gives them for an image of BINS x BINS:
            there its rounding is exact, so the middle of each bin can be taken here without losing half a pixel.
        height, width: of the image whose squashed copy Florence-2 saw.

    Polygons with fewer than three points are no areas and are dropped, and so are instances that have no other.
    """
    scale = np.array([width, height], dtype=np.float64) / BINS
    found = []
    for instance in parsed:
        kept = []
        for polygon in instance:
            points = np.asarray(polygon[: len(polygon) // 2 * 2], dtype=np.float64).reshape(-1, 2)
            if len(points) >= 3:
                kept.append(tuple(float(v) for v in ((points + 0.5) * scale).reshape(-1)))
        if kept:
            found.append(Region(tuple(kept)))
    return found


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
