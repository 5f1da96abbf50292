"""Pictures as the vision encoder sees them, made from the bytes of a pack row.

Shapes: H x W pixels of the encoder's square, S image cells.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch

from model.agevlm.letterbox import content_cells
from model.images import decode_image

KEPT_BYTES = 64 << 20
"""Memory for prepared pictures, in each process that prepares some."""
LEAST_KEPT = 64
"""Pictures so large that fewer than this fit are not kept: such a data set is too large for a picture to come again."""

Prepared = tuple[torch.Tensor, torch.Tensor]
"""Pixels (H, W, 3) as uint8, before normalisation, and valid cells (S,) of one picture."""


@dataclass(frozen=True)
class Normaliser:
    """The last step of the image processor, for a batch on its device: the same values to the bit.

    Loader processes send pixels as uint8, a quarter of the bytes, and spend no time on this.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, image_processor: Any) -> Self:
        """The step of this image processor."""
        return cls(tuple(image_processor.image_mean), tuple(image_processor.image_std))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) fp32 of (N, H, W, 3) uint8. In memory the channels stay last, as convolutions want them."""
        largest, mean, std = (_constant(values, pixels.device) for values in ((255.0,) * 3, self.mean, self.std))
        return pixels.to(torch.float32).div_(largest).sub_(mean).div_(std).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Numbers as a tensor, copied to a device once: a copy in each step would wait for the device.

    A GPU divides by a tensor exactly, but multiplies by the rounded inverse of a Python number.
    """
    return torch.tensor(values, dtype=torch.float32, device=device)


class PreparedPictures:
    """Decodes and letterboxes pictures. Keeps small ones: a small data set shows each of its pictures many times.

    Args:
        image_processor: the student's image processor (`AgeVlmProcessor.image_processor`).
        limit: bytes of the pixels that are kept; the least recently used pictures are dropped.
    """

    def __init__(self, image_processor: Any, limit: int = KEPT_BYTES) -> None:
        self._canvas, self._limit = image_processor.canvas, limit
        self._kept: OrderedDict[bytes, Prepared] = OrderedDict()

    def __call__(self, image: bytes) -> Prepared:
        """The picture of an image file's bytes; not to be changed in place. Raises ImageError if it is damaged."""
        known = self._kept.pop(image, None)  # no other thread can drop it in between
        if known is not None:
            self._kept[image] = known
            return known
        square, place = self._canvas(decode_image(image))
        prepared = torch.from_numpy(np.array(square)), torch.from_numpy(content_cells(place).reshape(-1))
        size = prepared[0].nbytes
        if size * LEAST_KEPT <= self._limit:
            self._kept[image] = prepared
            if len(self._kept) * size > self._limit:  # all pictures have one size
                self._kept.popitem(last=False)
        return prepared
