"""The facts about a picture that the inventory records, and the check that all of its pixels are there.

A JPEG is decoded at an eighth of its size: that reads every bit, and costs half of a whole decode. Other formats are
decoded whole.
"""

import hashlib
from dataclasses import dataclass

from model import containers, jpeg
from model.agevlm.upright import exif_orientation, xmp_orientation
from model.errors import ImageError
from model.images import check_pixel_count, check_size, open_image, to_upright


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """Facts about a picture whose pixels are all there."""

    sha256: str
    """SHA-256 of the file's bytes, hexadecimal."""
    format: str
    """One of FORMATS, by content; JPEG also for its multi-picture form."""
    width: int
    """Pixels of the upright picture; as is the height."""
    height: int
    orientation: int
    """As the file states it, 1 to 8 as in EXIF."""


def picture_facts(data: bytes) -> PictureFacts:
    """Check a picture file and state its facts. Raises ImageError as `decode_image`; see `check_pixels` for JPEG."""
    kind = check_size(data)
    width, height, stated = _jpeg(data) if kind == "JPEG" else _other(data, kind)
    return PictureFacts(hashlib.sha256(data).hexdigest(), kind, width, height, stated)


def _jpeg(data: bytes) -> tuple[int, int, int]:
    header = jpeg.read_header(data)
    check_pixel_count(header.width, header.height)
    jpeg.check_pixels(data, header)
    stated = exif_orientation(header.exif) if header.exif else None
    if stated is None and header.xmp:
        stated = xmp_orientation(header.xmp)
    stated = stated if stated and 1 <= stated <= 8 else 1
    width, height = header.width, header.height
    return (width, height, stated) if stated < 5 else (height, width, stated)


def _other(data: bytes, kind: str) -> tuple[int, int, int]:
    if damage := containers.damaged_pixels(data, kind):
        raise ImageError("undecodable", damage)
    image, stated = open_image(data)
    width, height = to_upright(image).size
    return width, height, stated
