"""Pictures as users hand them over: PIL images, arrays, tensors, files, URLs and base64, all to upright 8-bit RGB.

Arrays and tensors:
    Channels are the last axis if it has 1, 3 or 4 entries, else the first; for a tensor the first axis comes first.
    Integers count from 0 to 255. Floats count from 0 to 1 if all of them lie there, else from 0 to 255: transformers'
    own test of whether a picture is rescaled already (`is_scaled_image`). Anything beyond is an error.
No error repeats the data: a picture as base64 has millions of characters.
"""

from __future__ import annotations

import base64
import binascii
import os
from io import BytesIO
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from transformers.image_utils import load_image

from .chat_text import shortened
from .upright import upright_rgb

CHANNELS = (1, 3, 4)  # grey, RGB, RGB with transparency
CHANNEL_AXIS = {"channels_first": 0, "channels_last": 2}
OF_NUMPY = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32,
    torch.uint64, torch.float16, torch.float32, torch.float64,
)  # fmt: skip


def to_rgb(image: Any, channels: str | None = None) -> Image.Image:
    """Upright 8-bit RGB (`upright_rgb`) of a PIL image, an array or a tensor: (H, W), or with channels first or last.

    Args:
        channels: "channels_first" or "channels_last" for an array that could be read either way; None to infer it.

    Raises: ValueError for anything else, naming its type, shape, mode or range of values.
    """
    if channels not in (None, *CHANNEL_AXIS):
        raise ValueError(f"input_data_format is {shortened(channels)}; choose 'channels_first' or 'channels_last'")
    if isinstance(image, torch.Tensor):
        try:
            wide = image if image.dtype in OF_NUMPY else image.float()  # numpy has no bfloat16 and no 8-bit floats
            values = wide.numpy(force=True)
        except (TypeError, RuntimeError, NotImplementedError) as error:  # sparse, quantized, without data
            raise ValueError(
                f"image tensor is {image.dtype}, {image.layout}, on {image.device}; give values"
            ) from error
        image = _from_array(values, channels, first=True)
    elif isinstance(image, np.ndarray):
        image = _from_array(image, channels, first=False)
    if not isinstance(image, Image.Image):
        raise ValueError(f"image is a {type(image).__name__}; give a PIL image, an array or a tensor")
    return upright_rgb(image)


def _from_array(values: NDArray[Any], channels: str | None, first: bool) -> Image.Image:
    given = f"image array is {values.dtype} of shape {values.shape}"
    if values.ndim == 3:
        likely = [0, 2] if first else [2, 0]
        if channels is not None:
            likely = [CHANNEL_AXIS[channels]]
        axis = next((axis for axis in likely if values.shape[axis] in CHANNELS), None)
        if axis is None:
            raise ValueError(f"{given}; give (height, width), or 1, 3 or 4 channels first or last")
        values = np.moveaxis(values, axis, -1)
        values = values[..., 0] if values.shape[-1] == 1 else values
    if (values.ndim != 2 and values.ndim != 3) or not values.size:
        raise ValueError(f"{given}; give (height, width), or 1, 3 or 4 channels first or last")
    if values.dtype.kind not in "buif":
        raise ValueError(f"{given}; give integers from 0 to 255, or floats")
    if values.dtype != np.uint8:
        lowest, highest = float(values.min()), float(values.max())
        if not (lowest >= 0 and highest <= 255):  # also NaN
            raise ValueError(
                f"{given} with values from {lowest:g} to {highest:g}; give integers from 0 to 255, or floats from 0 "
                "to 1 or from 0 to 255, before any normalisation"
            )
        scale = 255 if values.dtype.kind in "bf" and highest <= 1 else 1
        values = np.rint(values.astype(np.float64) * scale).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values))


def opened(source: Any) -> Any:
    """The picture of a path, URL, data URL, base64 text or bytes; an image, array, tensor or None as it is.

    A URL is fetched by transformers' own loader.

    Raises: ValueError naming the path or URL, or for data its size.
    """
    if isinstance(source, (bytes, bytearray)):
        return _from_bytes(bytes(source), f"{len(source)} bytes")
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if not isinstance(source, str):
        return source
    if source.startswith(("http://", "https://")):
        try:
            return load_image(source)
        except Exception as error:  # whatever the network library raises
            raise ValueError(f"the picture at {shortened(source)} cannot be fetched: {type(error).__name__}") from error
    if is_data_url(source):
        return _from_data_url(source)
    if os.path.isfile(source):
        with open(source, "rb") as file:
            return _from_bytes(file.read(), f"the file {shortened(source)}")
    try:
        return decoded(source)
    except ValueError:
        raise ValueError(
            f"{shortened(source)} is no file, no URL and no picture as base64; give one of them, or the opened image"
        ) from None


def is_data_url(text: str) -> bool:
    """True for a URL that holds its data."""
    return text[:5].lower() == "data:"


def _from_data_url(url: str) -> Image.Image:
    header, comma, data = url.partition(",")
    if not comma:
        raise ValueError("a data URL has no comma before its data; write data:image/png;base64,...")
    if header.lower().endswith(";base64"):
        return decoded(unquote(data))
    return _from_bytes(unquote_to_bytes(data), "the data URL")


def decoded(text: str) -> Image.Image:
    """A picture from base64, also with line breaks, without padding or in the alphabet of URLs."""
    what = f"the base64 text of {len(text)} characters"
    compact = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{what} is no base64; give a picture file's bytes in base64") from None
    return _from_bytes(data, what)


def _from_bytes(data: bytes, what: str) -> Image.Image:
    try:
        with Image.open(BytesIO(data)) as picture:  # not load_image: it drops transparency and clips 16-bit greys
            picture.load()
            return upright_rgb(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({shortened(error)})"
        raise ValueError(f"{what} holds no picture that PIL can open{reason}") from None


__all__ = ["decoded", "is_data_url", "opened", "to_rgb"]
