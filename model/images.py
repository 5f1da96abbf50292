"""Decode an untrusted image: bytes in, an upright RGB picture out, or an error with the name of a reason.

The inventory, the teachers, training, evaluation and `ask` all open images here, so a mask that was made from a picture
fits the pixels that the student sees. Nothing here imports torch.
"""

import io
from typing import Final

from PIL import Image, UnidentifiedImageError

from model.agevlm.upright import upright_rgb
from model.errors import DataError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are opened, recognised by content and not by the file's name. Formats that run programs or load
fonts are left out. JPEG includes its multi-picture form."""
MAX_PIXELS: Final = 80_000_000
"""Larger images are refused before they are decoded. As RGB this many take 240 MB; PIL warns at a larger size."""
MAX_BYTES: Final = 64 << 20
"""Larger files are refused before they are read."""


class ImageError(DataError):
    """An image cannot be used. `reason` is a short name to count by; the message has the details."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """Pickle with both arguments, so that the error can return from a worker process."""
        return type(self), (self.reason, str(self))


def decode_image(data: bytes) -> Image.Image:
    """Decode an image file: first frame, EXIF rotation applied, 8-bit RGB, transparency shown on white.

    Raises ImageError with reason 'empty_file', 'too_large', 'not_an_image', 'too_many_pixels', 'truncated',
    'undecodable' or 'unsupported_mode'.
    """
    if not data:
        raise ImageError("empty_file", "the file has no bytes")
    if len(data) > MAX_BYTES:
        raise ImageError("too_large", f"the file has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        return _decode(data)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except Exception as error:  # PIL's plugins raise nearly every type on hostile files
        truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
        reason = "truncated" if truncated else "undecodable"
        raise ImageError(reason, f"{type(error).__name__}: {error}") from error


def _decode(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(
            "not_an_image", f"is none of {', '.join(FORMATS)}; the file begins with {data[:16]!r}"
        ) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError("too_many_pixels", f"{width} x {height} is more than {MAX_PIXELS} pixels")
    image.load()
    try:
        return upright_rgb(image)
    except ValueError as error:
        raise ImageError("unsupported_mode", str(error)) from error
