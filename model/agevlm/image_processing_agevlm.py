"""Pictures to pixels: upright, RGB, fitted into a square, normalised (paper appendix C).

Shapes: N images, side x side pixels, S = (side / stride)^2 cells, row by row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs

from .chat_text import shortened
from .letterbox import EARLIER_NAMES, LETTERBOXES, Geometry, content_cells, fit
from .picture_parts import picture_per_row
from .pictures import opened, to_rgb

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Options of transformers' image processors whose only value here is this one.
FIXED_OPTIONS = {
    "do_convert_rgb": True, "do_resize": True, "do_rescale": True, "do_normalize": True,
    "data_format": "channels_first",
}  # fmt: skip


class AgeVlmImageOptions(ImagesKwargs, total=False):  # type: ignore[misc,call-arg]
    """The arguments of `AgeVlmImageProcessor` that `from_pretrained` may override."""

    image_size: int
    stride: int
    letterbox: str


class AgeVlmImageProcessor(BaseImageProcessor):  # type: ignore[misc]
    """One image at a time into the encoder's square.

    Args:
        image_size: side of the square, pixels. stride: pixels per cell of the encoder's map.
        letterbox: "mean" (mean colour around the image), "zero" (black around it, as in prior work), "squash".
        image_mean, image_std: per RGB channel, of pixels scaled to 0..1.

    Raises: ValueError naming the argument, its value and the remedy; also for an option of transformers' image
    processors that this one cannot honour.
    """

    valid_kwargs = AgeVlmImageOptions
    model_input_names = ["pixel_values", "cell_mask"]  # noqa: RUF012

    def __init__(
        self,
        image_size: int = 768,
        stride: int = 32,
        letterbox: str = "mean",
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        if "fit" in kwargs:  # the name of this field in earlier checkpoints
            letterbox = EARLIER_NAMES.get(kwargs.pop("fit"), letterbox)
        _refuse_other_options({name: kwargs[name] for name in kwargs if name in ImagesKwargs.__annotations__})
        super().__init__(**kwargs)
        if letterbox not in LETTERBOXES:
            raise ValueError(f"letterbox is {letterbox!r}; choose one of {', '.join(map(repr, LETTERBOXES))}")
        if image_size < 1 or stride < 1 or image_size % stride:
            raise ValueError(f"image_size is {image_size} pixels; it must be a positive multiple of stride {stride}")
        self.image_size, self.stride, self.letterbox = image_size, stride, letterbox
        self.image_mean = list(image_mean or CLIP_MEAN)
        self.image_std = list(image_std or CLIP_STD)

    def geometry(self, height: int, width: int) -> Geometry:
        """The place of an upright image of this size in the square."""
        return fit(height, width, self.image_size, self.stride, self.letterbox)

    def canvas(self, image: Any, channels: str | None = None) -> tuple[Image.Image, Geometry]:
        """The square picture that the encoder sees, before normalisation, and its geometry. Arguments as `to_rgb`."""
        picture = to_rgb(image, channels)
        place = self.geometry(picture.height, picture.width)
        inner = picture.resize((place.inner_width, place.inner_height), Image.Resampling.BICUBIC, reducing_gap=3.0)
        mean = tuple(round(255 * m) for m in self.image_mean)
        square = Image.new("RGB", (place.side, place.side), (0, 0, 0) if self.letterbox == "zero" else mean)
        square.paste(inner, (place.left, place.top))
        return square, place

    def preprocess(
        self, images: Any, return_tensors: str | None = None, input_data_format: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """`pixel_values` (N, 3, side, side) fp32 and `cell_mask` (N, S) bool of one picture or a list of them.

        Args:
            images: PIL images, arrays, tensors, paths, URLs or base64; see `pictures.to_rgb` and `pictures.opened`.
            input_data_format: "channels_first" or "channels_last" for arrays that could be read either way.

        Raises: ValueError for a picture that cannot be opened, and for an option that cannot be honoured.
        """
        _refuse_other_options(kwargs)
        channels = None if input_data_format is None else str(getattr(input_data_format, "value", input_data_format))
        pixels: list[NDArray[np.float32]] = []
        cells: list[NDArray[np.bool_]] = []
        mean, std = np.asarray(self.image_mean, np.float32), np.asarray(self.image_std, np.float32)
        for image in picture_per_row(images):
            square, place = self.canvas(opened(image), channels)
            scaled = np.asarray(square, dtype=np.float32) / np.float32(255)
            pixels.append(((scaled - mean) / std).transpose(2, 0, 1))
            cells.append(content_cells(place).reshape(-1))
        data = {"pixel_values": np.stack(pixels), "cell_mask": np.stack(cells)}
        return BatchFeature(data=data, tensor_type=return_tensors)


def _refuse_other_options(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value is not None and value != FIXED_OPTIONS.get(name):
            raise ValueError(
                f"{shortened(name)} is {shortened(value)}, which AgeVlmImageProcessor cannot honour; it has "
                "image_size, stride, letterbox, image_mean and image_std, and always fits, scales and normalises"
            )


AgeVlmImageProcessor.register_for_auto_class("AutoImageProcessor")  # a saved folder carries this code

__all__ = ["AgeVlmImageOptions", "AgeVlmImageProcessor", "to_rgb"]
