"""The frame of an annotation: the picture as it is stored, or upright, with its EXIF orientation applied.

Masks of this project are always in the upright frame. An annotation file does not say in which frame its masks were
drawn, so a recipe can.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from pipeline.sources.records import Truth

Frame = Literal["upright", "stored"]
Pixels = npt.NDArray[Any]

_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda stored: stored[:, ::-1],  # mirrored left to right
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),  # shown after a quarter turn clockwise
    7: lambda stored: stored[::-1, ::-1].T,
    8: lambda stored: np.rot90(stored),
}
SIDEWAYS = frozenset({5, 6, 7, 8})
"""Orientations that exchange height and width."""


def upright(stored: Pixels, orientation: int) -> Pixels:
    """Pixels (height, width) of the stored picture in the upright frame. Unknown orientations change nothing."""
    return _UPRIGHT[orientation](stored) if orientation in _UPRIGHT else stored


def truth_in_frame(
    truth: Truth, orientation: int, stored_height: int, stored_width: int, frame: Frame | None
) -> Truth | None:
    """A turn's truth in the upright frame of its picture; None if it is in doubt.

    Args:
        truth: as annotated. Its size may be wrong: compare the result's size with the upright picture's.
        orientation: EXIF orientation of the picture, 1 to 8; other values count as 1.
        stored_height: pixels, before the orientation is applied; as is `stored_width`.
        frame: in which the annotations were drawn, None if that is not known.

    Without a frame, the truth is in doubt if the stored and the upright picture differ but have one size. If their
    sizes differ, the size tells the frame: only masks that were drawn on the upright picture have its size.
    """
    if not truth.present or truth.rle is None or orientation not in _UPRIGHT or frame == "upright":
        return truth
    if frame is None:
        return truth if orientation in SIDEWAYS and stored_height != stored_width else None
    stored = coco.decode({"size": [truth.height, truth.width], "counts": truth.rle})
    turned = np.asfortranarray(upright(stored, orientation))
    height, width = turned.shape
    return replace(truth, height=height, width=width, rle=coco.encode(turned)["counts"].decode("ascii"))
