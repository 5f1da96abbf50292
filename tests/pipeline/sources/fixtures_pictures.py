"""Small pictures of every kind that a raw data set may have, made in memory."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

RED, BLUE = (200, 30, 40), (20, 40, 220)


def halves(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = RED, BLUE
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def rotated_by_exif(orientation: int) -> bytes:
    """A JPEG of `halves` with this EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(halves(), "JPEG", exif=exif, quality=95)


def bomb(width: int = 30000, height: int = 30000) -> bytes:
    """A PNG of a few hundred bytes that claims to be huge."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def sixteen_bit() -> bytes:
    """A 16-bit grey PNG: left half dark, right half white."""
    values = np.full((10, 20), 0x1234, np.uint16)
    values[:, 10:] = 0xFFFF
    return encoded(Image.fromarray(values))


def animated() -> bytes:
    """A GIF of a red and a blue frame."""
    red, blue = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    return encoded(red, "GIF", save_all=True, append_images=[blue], duration=100)


def half_transparent() -> bytes:
    """A PNG whose right half is transparent black."""
    pixels = np.zeros((10, 20, 4), np.uint8)
    pixels[:, :10] = (*RED, 255)
    return encoded(Image.fromarray(pixels, "RGBA"))
