"""Decode an untrusted image: bytes in, an upright RGB picture out, or an error with the name of a reason.

The inventory, the teachers, training, evaluation and `ask` all open images here, so a mask that was made from a picture
fits the pixels that the student sees. Nothing here imports torch.

A picture is not refused for damage outside of its pixels: where PIL refuses a file, the file's pixels alone are tried.
"""

import io
import logging
import warnings
from typing import Any, Final

from PIL import Image, UnidentifiedImageError

from model import containers, jpeg
from model.agevlm.upright import orientation, upright_rgb
from model.errors import ImageError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are opened, recognised by content and not by the file's name. Formats that run programs or load
fonts are left out. JPEG includes its multi-picture form."""
MAX_PIXELS: Final = 80_000_000
"""Larger images are refused before they are decoded. As RGB this many take 240 MB; PIL warns at a larger size."""
MAX_BYTES: Final = 64 << 20
"""Larger files are refused before they are read."""

CUT: Final = ("truncated", "not enough image data")  # in PIL's messages


def decode_image(data: bytes) -> Image.Image:
    """Decode an image file: first frame, EXIF rotation applied, 8-bit RGB, transparency shown on white.

    Raises ImageError with reason 'zero_byte', 'too_large', 'not_an_image', 'bomb', 'truncated', 'undecodable' or
    'unsupported_mode'.
    """
    return to_upright(open_image(data)[0])


def open_image(data: bytes) -> tuple[Image.Image, int]:
    """The first frame, decoded and not upright yet, and the orientation that the file states, 1 to 8.

    Raises ImageError as `decode_image`.
    """
    kind = check_size(data)
    _silence()
    if kind == "TIFF" and containers.tiff_entries_cut(data):
        raise ImageError("truncated", "the TIFF file ends before entries that its pixels need")
    try:
        return _load(data)
    except ImageError:
        raise
    except Exception as error:  # PIL's plugins raise nearly every type on hostile files
        return _second_try(data, kind, error)


def to_upright(image: Image.Image) -> Image.Image:
    """`upright_rgb` of an image from `open_image`. Raises ImageError, reason 'unsupported_mode'."""
    try:
        return upright_rgb(image)
    except ValueError as error:
        raise ImageError("unsupported_mode", str(error)) from error


def check_size(data: bytes) -> str:
    """The format of a file by its first bytes, one of FORMATS.

    Raises ImageError with reason 'zero_byte', 'too_large', 'not_an_image' or, for WebP, 'bomb'.
    """
    if not data:
        raise ImageError("zero_byte", "the file has no bytes")
    if len(data) > MAX_BYTES:
        raise ImageError("too_large", f"the file has {len(data)} bytes, more than {MAX_BYTES}")
    kind = containers.kind_of(data)
    if not kind:
        raise ImageError("not_an_image", f"is none of {', '.join(FORMATS)}; the file begins with {data[:16]!r}")
    if kind == "WEBP":
        check_pixel_count(*containers.webp_size(data))
    return kind


def check_pixel_count(width: int, height: int) -> None:
    """Raises ImageError, reason 'bomb', for more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise ImageError("bomb", f"{width} x {height} is more than {MAX_PIXELS} pixels")


def _load(data: bytes) -> tuple[Image.Image, int]:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    check_pixel_count(*image.size)
    before = orientation(image)
    image.load()
    after = orientation(image)  # a PNG may state it behind its pixels; PIL turns a TIFF and forgets it
    return image, before if after == 1 else after


def _second_try(data: bytes, kind: str, error: Exception) -> tuple[Image.Image, int]:
    """Open the file's pixels alone. Raises ImageError with what was wrong with the file."""
    if isinstance(error, Image.DecompressionBombError):
        raise ImageError("bomb", str(error)) from error
    info: dict[str, Any]
    if kind == "JPEG":
        header = jpeg.read_header(data)
        check_pixel_count(header.width, header.height)
        jpeg.check_pixels(data, header)  # the end marker that `without_metadata` adds would hide a cut
        plain, _ = jpeg.without_metadata(data, header)
        info = {"exif": header.exif, "xmp": header.xmp}
    else:
        pixels = containers.without_metadata(data, kind)
        if pixels is None:
            raise _named(data, kind, error) from error
        plain, info = pixels
    try:
        image, stated = _load(plain)
    except Exception as again:  # the first error names the file as it is
        raise _named(data, kind, error) from again
    image.info.update(info)
    return image, stated if kind == "TIFF" else orientation(image)


def _named(data: bytes, kind: str, error: Exception) -> ImageError:
    told = isinstance(error, EOFError) or any(text in str(error).lower() for text in CUT)
    reason = "truncated" if told or containers.ends_early(data, kind) else "undecodable"
    detail = f"no {kind} that can be read" if isinstance(error, UnidentifiedImageError) else str(error)
    return ImageError(reason, f"{type(error).__name__}: {detail}")


def _silence() -> None:
    """No warnings and log lines of PIL in this process: they are about metadata, or about what is checked here.

    Not for a while only: the filters belong to the process, and threads that set and restore them undo each other.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "ImageError", "decode_image"]
