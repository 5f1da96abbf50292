"""Pictures as the vision encoder sees them, made from the bytes of a pack row.

Shapes: H x W pixels of the encoder's square, S image cells.
"""

from collections import OrderedDict
from typing import Any

import torch

from model.images import decode_image

KEPT_BYTES = 256 << 20
"""Memory for prepared pictures, in each worker."""
LEAST_KEPT = 64
"""Pictures so large that fewer than this fit are not kept: such a data set is too large for a picture to come again."""

Prepared = tuple[torch.Tensor, torch.Tensor]
"""Pixels (3, H, W) and valid cells (S,) of one picture."""


class PreparedPictures:
    """Decodes and letterboxes pictures. Keeps small ones: a small data set shows each of its pictures many times.

    Args:
        image_processor: the student's image processor (`AgeVlmProcessor.image_processor`).
        limit: bytes of the pixels that are kept; the least recently used pictures are dropped.
    """

    def __init__(self, image_processor: Any, limit: int = KEPT_BYTES) -> None:
        self._process, self._limit = image_processor, limit
        self._kept: OrderedDict[bytes, Prepared] = OrderedDict()

    def __call__(self, image: bytes) -> Prepared:
        """The picture of an image file's bytes; not to be changed in place. Raises ImageError if it is damaged."""
        known = self._kept.get(image)
        if known is not None:
            self._kept.move_to_end(image)
            return known
        done = self._process([decode_image(image)], return_tensors="pt")
        prepared = done["pixel_values"][0], done["cell_mask"][0].bool()
        size = prepared[0].nbytes
        if size * LEAST_KEPT <= self._limit:
            self._kept[image] = prepared
            if len(self._kept) * size > self._limit:  # all pictures have one size
                self._kept.popitem(last=False)
        return prepared
