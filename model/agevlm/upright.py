"""Convert any picture that PIL has opened to upright 8-bit RGB, in the same way for every part of the project.

Only PIL and numpy: steps without a model open pictures too (model.images).
"""

from __future__ import annotations

import re
import struct

import numpy as np
from PIL import Image

DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # PIL opens a 16-bit grey as one of these, by file and version
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the turn that makes the picture upright; 1 is upright."""
ORIENTATION_TAG = 0x0112
INTEGERS = {3: "H", 4: "L", 8: "h", 9: "l"}  # TIFF's types of integers of 2 and 4 bytes, as struct names them
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(="|>)([0-9])')
METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""Keys of PIL's `info` that may state an orientation."""


def upright_rgb(image: Image.Image) -> Image.Image:
    """EXIF rotation applied, the present frame, 16-bit greys divided by 257, transparency shown on white.

    Raises: ValueError for pixels with no agreed white: floating ones, and integers beyond 16 bits.
    """
    image = _rotated(image)
    if image.mode in DEEP_MODES:
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError(f"mode {image.mode} has values beyond 16 bits; scale the picture to 8 bits first")
        # An 8-bit value v is v * 257 in 16 bits, so that white stays white: 255 * 257 = 65535. Rounded to the nearest.
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("mode F has floating-point pixels with no agreed white; scale the picture to 8 bits first")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "La":  # premultiplied grey, which PIL converts to this alone
        image = image.convert("LA")
    if image.has_transparency_data:
        # Hidden pixels hold arbitrary colours: dropping alpha would show what no viewer shows.
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        canvas.alpha_composite(layer)
        return canvas.convert("RGB")
    return image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened picture, 1 to 8; 1 (upright) if it states none or none that exists.

    Read from EXIF, else from XMP, as PIL does. Of EXIF only this entry is read, so that damage elsewhere in the block
    hides nothing. PIL turns a TIFF while it loads it and removes the entry: ask before loading for what the file says.
    """
    exif = image.info.get("exif")
    if exif is None and isinstance(profile := image.info.get("Raw profile type exif"), str):
        exif = _profile_bytes(profile)
    if isinstance(exif, bytes):
        stated = exif_orientation(exif)
    else:
        tags = getattr(image, "tag_v2", None)
        stated = None if tags is None else tags.get(ORIENTATION_TAG)
    if stated is None:
        stated = xmp_orientation(image.info.get("XML:com.adobe.xmp") or image.info.get("xmp"))
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else 1


def exif_orientation(exif: bytes) -> int | None:
    """The number that the first directory of an EXIF block states as orientation, None if it states none.

    0 if the entry holds something else than one integer. An EXIF block is a small TIFF file: an order of bytes, and
    directories of entries of 12 bytes (tag, type, count, value).
    """
    block = re.sub(b"^(Exif\0\0){1,2}", b"", exif)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 10:
        return None
    (start,) = struct.unpack_from(f"{order}L", block, 4)
    entries = block[start + 2 :]
    if len(block) < start + 2:
        return None
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for place in range(0, min(12 * count, len(entries) - 11), 12):
        tag, kind, values = struct.unpack_from(f"{order}HHL", entries, place)
        if tag == ORIENTATION_TAG:
            if kind not in INTEGERS or values != 1:
                return 0
            return int(struct.unpack_from(order + INTEGERS[kind], entries, place + 8)[0])
    return None


def xmp_orientation(xmp: object) -> int | None:
    """The number that an XMP packet (text or bytes) states as orientation, None if it states none."""
    if isinstance(xmp, str):
        xmp = xmp.encode(errors="replace")
    found = XMP_ORIENTATION.search(xmp) if isinstance(xmp, bytes) else None
    return int(found[2]) if found else None


def _profile_bytes(profile: str) -> bytes:
    """EXIF that ImageMagick wrote into a PNG as text: a name, a length and hexadecimal digits, a line each."""
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:  # no digits: the profile says nothing
        return b""


def _rotated(image: Image.Image) -> Image.Image:
    """The picture upright, as a copy without the metadata that asked for the turn."""
    image.load()  # a PNG may state its orientation behind its pixels
    turn = TURNS.get(orientation(image))
    if turn is None:
        return image.copy()
    image = image.transpose(turn)
    for name in METADATA:
        image.info.pop(name, None)
    return image


__all__ = ["orientation", "upright_rgb"]
