"""Pictures in and out of bytes, for the tests of overlays."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def jpeg_of(picture: Image.Image) -> bytes:
    """A picture as a JPEG file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def as_array(uri: str) -> npt.NDArray[np.uint8]:
    """The pixels (H, W, 3) of a data URI."""
    assert uri.startswith("data:image/webp;base64,")
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))) as picture:
        return np.asarray(picture.convert("RGB"))
