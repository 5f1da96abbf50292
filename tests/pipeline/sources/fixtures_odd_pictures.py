"""Odd and bad picture files, made in memory: each is damaged, huge or unusual in one way."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from tests.pipeline.sources.fixtures_pictures import bomb, encoded, halves

END = b"\xff\xd9"


def photo(width: int = 96, height: int = 64) -> Image.Image:
    """Waves and noise: its files have pixels to the last byte."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([127 + 90 * np.sin(x / 9 + y / 14 + colour) for colour in range(3)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 1))
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


def part(data: bytes, percent: int) -> bytes:
    """The first bytes of a file."""
    return data[: len(data) * percent // 100]


def segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG file."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """A JPEG file with segments behind its start."""
    return data[:2] + b"".join(segments) + data[2:]


def chunk(name: bytes, content: bytes, damage: int = 0) -> bytes:
    """A chunk of a PNG file; `damage` is added to its checksum."""
    checksum = zlib.crc32(name + content) ^ damage
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def with_chunk(data: bytes, extra: bytes) -> bytes:
    """A PNG file with a chunk in front of its pixels."""
    place = data.index(b"IDAT") - 4
    return data[:place] + extra + data[place:]


def changed(data: bytes, place: int, layout: str, *values: int) -> bytes:
    """The file with numbers written at a place."""
    file = bytearray(data)
    struct.pack_into(layout, file, place % len(data), *values)
    return bytes(file)


def exif_block(orientation: int, order: str = ">") -> bytes:
    """EXIF with a rational resolution whose place lies behind the block's end, and then an orientation."""
    entries = [(0x011A, 5, 1, 0x00FFFFFF), (0x0112, 3, 1, orientation << 16 if order == ">" else orientation)]
    head = b"MM\0*" if order == ">" else b"II*\0"
    block = head + struct.pack(f"{order}LH", 8, len(entries))
    return b"Exif\0\0" + block + b"".join(struct.pack(f"{order}HHLL", *entry) for entry in entries) + bytes(4)


def rle_bmp(data: bytes) -> bytes:
    """A BMP of 32 x 8 pixels with 256 greys, its rows as these run lengths."""
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256))
    start = 14 + 40 + len(palette)
    head = struct.pack("<LllHHLLllLL", 40, 32, 8, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<LLL", start + len(data), 0, start) + head + palette + data


def interlaced() -> bytes:
    """A grey PNG of 8 x 8 pixels with Adam7's seven passes, which PIL cannot write."""
    passes = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]  # width and height of each
    rows = b"".join((b"\0" + b"\x80" * width) * height for width, height in passes)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def animated(kind: str) -> bytes:
    """Two frames."""
    return encoded(halves(), kind, save_all=True, append_images=[halves().transpose(Image.Transpose.ROTATE_180)])


def text_bomb() -> bytes:
    """A PNG whose text takes 2 MB when it is unpacked."""
    return with_chunk(encoded(halves()), chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 << 20))))


def many_scans(width: int, height: int) -> bytes:
    """A progressive JPEG that claims this size; its last scan comes 40 times."""
    data = encoded(photo(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return changed(data[:last] + data[last:-2] * 40 + END, data.index(b"\xff\xc2") + 5, ">HH", height, width)


def first_scans(data: bytes, count: int) -> bytes:
    """A progressive JPEG that was cut behind a scan, and closed."""
    place = 0
    for _ in range(count + 1):
        place = data.index(b"\xff\xda", place + 1)
    tables = data.rfind(b"\xff\xc4", 0, place)  # the tables of the next scan
    return data[:tables] + END


def saved(kind: str, mode: str, **options: Any) -> bytes:
    """A picture of 40 x 20 pixels in this mode."""
    return encoded(halves().convert(mode), kind, **options)


def deep_tiff(values: "np.ndarray[Any, Any]") -> bytes:
    """A TIFF of these numbers."""
    sink = io.BytesIO()
    Image.fromarray(values).save(sink, "TIFF")
    return sink.getvalue()


def text_chunks() -> bytes:
    """A PNG with 900 KB of text."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 900_000)
    return encoded(halves(), pnginfo=info)


JPEG, PROGRESSIVE, PNG = encoded(photo(), "JPEG"), encoded(photo(), "JPEG", progressive=True), encoded(photo())
SMALL = encoded(halves(), "JPEG")
WEBP, LOSSLESS = encoded(photo(), "WEBP"), encoded(photo(), "WEBP", lossless=True)
GIF, BMP, TIFF = encoded(photo(), "GIF"), encoded(photo(), "BMP"), encoded(photo(), "TIFF")
COMPRESSED = encoded(photo(), "TIFF", compression="tiff_deflate")
ROWS = b"".join(bytes([16, grey, 16, 200, 0, 0]) for grey in range(0, 80, 10)) + b"\0\1"
SCAN = JPEG.index(b"\xff\xda")
FRAME = JPEG.index(b"\xff\xc0")
ICC = b"ICC_PROFILE\0\x01\x01" + b"no profile at all" * 9
XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta <<< tiff:Orientation=\xff"
PICTURES_IN_EXIF = segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + SMALL)

REFUSED: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "zero_byte"),
    "html": (b"<!DOCTYPE html><html>404</html>", "not_an_image"),
    "text": (b"hello, I am no image\n" * 9, "not_an_image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not_an_image"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "not_an_image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
    "ico": (encoded(halves(16, 16), "ICO"), "not_an_image"),
    "psd": (b"8BPS\0\1" + bytes(40), "not_an_image"),
    "mp4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "not_an_image"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "not_an_image"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0\0\3" + JPEG, "not_an_image"),
    "spaces before a jpeg": (b"\r\n" + JPEG, "not_an_image"),
    "jpeg, 10 %": (part(JPEG, 10), "truncated"),
    "jpeg, 50 %": (part(JPEG, 50), "truncated"),
    "jpeg, 90 %": (part(JPEG, 90), "truncated"),
    "jpeg, 99 %": (part(JPEG, 99), "truncated"),
    "jpeg, 50 % and closed": (part(JPEG, 50) + END, "truncated"),
    "jpeg, 99 % and closed": (part(JPEG, 99) + END, "truncated"),
    "jpeg, 99 %, closed, and harmless junk": (part(JPEG, 99)[:20] + b"junk" + part(JPEG, 99)[20:] + END, "truncated"),
    "jpeg, start only": (JPEG[:4], "truncated"),
    "progressive jpeg, 99 %": (part(PROGRESSIVE, 99), "truncated"),
    "progressive jpeg, 99 % and closed": (part(PROGRESSIVE, 99) + END, "truncated"),
    "progressive jpeg, closed between scans": (first_scans(PROGRESSIVE, 5), "truncated"),
    "cmyk jpeg, 99 % and closed": (part(encoded(photo().convert("CMYK"), "JPEG"), 99) + END, "truncated"),
    "jpeg with restarts, 60 % and closed": (
        part(encoded(photo(), "JPEG", restart_marker_blocks=2), 60) + END, "truncated"),
    "cut jpeg with a whole picture in its exif": (with_segments(part(JPEG, 80), PICTURES_IN_EXIF), "truncated"),
    "cut jpeg followed by a whole one": (part(JPEG, 80) + END + JPEG, "truncated"),
    "jpeg of zeros": (b"\xff\xd8\xff" + bytes(4000), "truncated"),
    "jpeg with wrong code": (JPEG[: SCAN + 60] + b"\xff\x00" * 200 + JPEG[SCAN + 460 :], "undecodable"),
    "jpeg of no height": (changed(JPEG, FRAME + 5, ">H", 0), "undecodable"),
    "jpeg that claims 65535 x 65535": (changed(JPEG, FRAME + 5, ">HH", 65535, 65535), "bomb"),
    "jpeg of 12 bits": (changed(JPEG, FRAME + 4, ">B", 12), "unsupported_mode"),
    "jpeg of 8000 x 8000 and 49 scans": (many_scans(8000, 8000), "bomb"),
    "png of 30,000 x 30,000": (bomb(), "bomb"),
    "png, 99 %": (part(PNG, 99), "truncated"),
    "png, half of its pixels and closed": (part(PNG, 50) + PNG[-12:], "truncated"),
    "png, a bit of its pixels flipped": (changed(PNG, len(PNG) // 2, ">B", PNG[len(PNG) // 2] ^ 4), "undecodable"),
    "webp, 50 %": (part(WEBP, 50), "truncated"),
    "webp, 99 %": (part(WEBP, 99), "truncated"),
    "lossless webp, 99 %": (part(LOSSLESS, 99), "truncated"),
    "webp of 10,000 x 9,000": (
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x0f\x27\0\x27\x23\0", "bomb"),
    "gif, 99 %": (part(GIF, 99), "truncated"),
    "bmp, 99 %": (part(BMP, 99), "truncated"),
    "bmp of runs, cut": (rle_bmp(ROWS)[:-9], "truncated"),
    "tiff, 99 %": (part(TIFF, 99), "truncated"),
    "compressed tiff, 99 %": (part(COMPRESSED, 99), "truncated"),
    "tiff of floats": (deep_tiff(np.full((4, 4), 0.5, np.float32)), "unsupported_mode"),
    "tiff of numbers beyond 16 bits": (deep_tiff(np.full((4, 4), 70000, np.int32)), "unsupported_mode"),
}  # fmt: skip

ACCEPTED: dict[str, tuple[bytes, str, int, int]] = {
    "png named jpg": (PNG, "PNG", 96, 64),
    "progressive jpeg": (PROGRESSIVE, "JPEG", 96, 64),
    "jpeg without its end marker": (JPEG[:-2], "JPEG", 96, 64),
    "jpeg and half an end marker": (JPEG[:-1], "JPEG", 96, 64),
    "jpeg followed by garbage": (JPEG + b"\xff\x00garbage\xff\xd0" * 99, "JPEG", 96, 64),
    "two jpegs": (JPEG + SMALL, "JPEG", 96, 64),
    "jpeg and a cut one": (JPEG + part(JPEG, 60), "JPEG", 96, 64),
    "jpeg, multi-picture": (animated("MPO"), "JPEG", 40, 20),
    "jpeg, junk between segments": (JPEG[:20] + b"junk" + JPEG[20:], "JPEG", 96, 64),
    "jpeg, junk before its end": (JPEG[:-2] + bytes(9) + END, "JPEG", 96, 64),
    "jpeg, odd scan parameters": (changed(JPEG, SCAN + 11, ">BBB", 1, 62, 1), "JPEG", 96, 64),
    "jpeg, unknown jfif version": (changed(JPEG, 11, ">B", 9), "JPEG", 96, 64),
    "jpeg, half a jfif header": (with_segments(JPEG, segment(0xE0, b"JFIF")), "JPEG", 96, 64),
    "jpeg, unknown adobe colours": (
        with_segments(JPEG, segment(0xEE, b"Adobe\0\x64\0\0\0\0\x09")), "JPEG", 96, 64),
    "jpeg, half an adobe marker": (with_segments(JPEG, segment(0xEE, b"Adobe")), "JPEG", 96, 64),
    "jpeg, comment of 60 KB": (encoded(photo(), "JPEG", comment=b"c" * 60_000), "JPEG", 96, 64),
    "jpeg, 800 KB of exif": (
        with_segments(JPEG, *[segment(0xE1, b"Exif\0\0" + b"e" * 65_000)] * 12), "JPEG", 96, 64),
    "jpeg, damaged colour profile": (with_segments(JPEG, segment(0xE2, ICC)), "JPEG", 96, 64),
    "jpeg, broken xmp": (with_segments(JPEG, segment(0xE1, XMP)), "JPEG", 96, 64),
    "jpeg, broken photoshop block": (with_segments(JPEG, segment(0xED, b"Photoshop 3.0\x008BIM\4")), "JPEG", 96, 64),
    "jpeg, cmyk": (saved("JPEG", "CMYK"), "JPEG", 40, 20),
    "jpeg, grey": (saved("JPEG", "L"), "JPEG", 40, 20),
    "jpeg, rgb": (encoded(photo(), "JPEG", keep_rgb=True), "JPEG", 96, 64),
    "jpeg, 4:4:4": (encoded(photo(), "JPEG", subsampling="4:4:4"), "JPEG", 96, 64),
    "jpeg, 4:2:2": (encoded(photo(), "JPEG", subsampling="4:2:2"), "JPEG", 96, 64),
    "jpeg, 4:1:1": (encoded(photo(), "JPEG", subsampling="4:1:1"), "JPEG", 96, 64),
    "jpeg, restarts": (encoded(photo(), "JPEG", restart_marker_blocks=2), "JPEG", 96, 64),
    "jpeg of 49 scans": (many_scans(96, 64), "JPEG", 96, 64),
    "jpeg of 1 x 10,000": (encoded(halves(1, 10_000), "JPEG"), "JPEG", 1, 10_000),
    "jpeg of 10,000 x 1": (encoded(halves(10_000, 1), "JPEG"), "JPEG", 10_000, 1),
    "jpeg of one pixel": (encoded(halves(1, 1), "JPEG"), "JPEG", 1, 1),
    "png of one pixel": (encoded(halves(1, 1)), "PNG", 1, 1),
    "png, 16 bits": (encoded(Image.fromarray(np.full((4, 6), 0x1234, np.uint16))), "PNG", 6, 4),
    "png, palette with transparency": (saved("PNG", "P", transparency=0), "PNG", 40, 20),
    "png, grey with transparency": (saved("PNG", "LA"), "PNG", 40, 20),
    "png, a transparent colour": (saved("PNG", "RGB", transparency=(200, 30, 40)), "PNG", 40, 20),
    "png, one bit": (saved("PNG", "1"), "PNG", 40, 20),
    "png, interlaced": (interlaced(), "PNG", 8, 8),
    "png, animated": (animated("PNG"), "PNG", 40, 20),
    "png, 900 KB of text": (text_chunks(), "PNG", 40, 20),
    "png, text that unpacks to 2 MB": (text_bomb(), "PNG", 40, 20),
    "png, wrong checksum of its text": (with_chunk(PNG, chunk(b"tEXt", b"Title\0x", damage=1)), "PNG", 96, 64),
    "png, damaged colour profile": (with_chunk(PNG, chunk(b"iCCP", b"x\0\0no zlib")), "PNG", 96, 64),
    "png, empty colour profile": (with_chunk(PNG, chunk(b"iCCP", b"")), "PNG", 96, 64),
    "png without its end": (PNG[:-12], "PNG", 96, 64),
    "png followed by garbage": (PNG + b"garbage" * 99, "PNG", 96, 64),
    "webp": (WEBP, "WEBP", 96, 64),
    "webp, lossless": (LOSSLESS, "WEBP", 96, 64),
    "webp, animated": (animated("WEBP"), "WEBP", 40, 20),
    "webp, cut in its exif": (encoded(photo(), "WEBP", exif=b"e" * 900)[:-300], "WEBP", 96, 64),
    "gif, animated": (animated("GIF"), "GIF", 40, 20),
    "gif, cut in its second frame": (animated("GIF")[:-9], "GIF", 40, 20),
    "bmp, rows from the top": (changed(BMP, 22, "<l", -64), "BMP", 96, 64),
    "bmp of runs": (rle_bmp(ROWS), "BMP", 32, 8),
    "tiff": (TIFF, "TIFF", 96, 64),
    "tiff, pages": (animated("TIFF"), "TIFF", 40, 20),
    "tiff, 16 bits": (deep_tiff(np.full((4, 6), 0x1234, np.uint16)), "TIFF", 6, 4),
    "tiff, one bit": (saved("TIFF", "1", compression="group4"), "TIFF", 40, 20),
    "tiff, cmyk": (saved("TIFF", "CMYK"), "TIFF", 40, 20),
}  # fmt: skip
