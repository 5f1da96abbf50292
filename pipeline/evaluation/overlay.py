"""Draws an attention map over its image, with the true object outlined in white."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.agevlm.letterbox import Geometry

LONGEST = 480  # pixels of a picture's longer side
# Black to violet to orange to pale yellow: more attention is lighter, also when printed in grey.
STOPS = np.array([[0, 0, 6], [66, 12, 104], [165, 44, 96], [232, 104, 38], [251, 180, 30], [252, 253, 191]], float)
SHARE = 0.65  # weight of the heat map; the rest is the image


def heat_over(
    picture: Image.Image, map_s: npt.NDArray[np.float32], geometry: Geometry, mask: npt.NDArray[np.bool_] | None
) -> Image.Image:
    """Draw one attention map over its picture.

    Args:
        picture: RGB with EXIF rotation applied, of the geometry's height and width.
        map_s: (S,) attention per cell, row by row.
        mask: (height, width) true mask of the object, or None.
    """
    scale = LONGEST / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    heat = np.asarray(map_s, dtype=np.float32).reshape(geometry.grid, geometry.grid)
    square = Image.fromarray(heat / max(float(heat.max()), 1e-12)).resize(
        (geometry.side, geometry.side), Image.Resampling.BICUBIC
    )
    left, top = geometry.left, geometry.top
    inner = square.crop((left, top, left + geometry.inner_width, top + geometry.inner_height))
    level = np.asarray(inner.resize(size, Image.Resampling.BILINEAR)).clip(0, 1)
    # In grey, so that the picture's colours are not mistaken for heat.
    grey = np.asarray(picture.convert("L").resize(size, Image.Resampling.BILINEAR), dtype=float)[..., None]
    canvas = SHARE * _colours(level) + (1 - SHARE) * grey
    if mask is not None:
        shown = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        canvas[_border(shown)] = 255
    return Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))


def _colours(level: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Levels 0..1 to colours, (..., 3)."""
    at = np.linspace(0, 1, len(STOPS))
    return np.stack([np.interp(level, at, STOPS[:, channel]) for channel in range(3)], axis=-1)


def _border(mask: npt.NDArray[np.bool_], thickness: int = 2) -> npt.NDArray[np.bool_]:
    """The pixels of a mask within `thickness` of its edge."""
    inner = mask
    for _ in range(thickness):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(mask & ~inner)
