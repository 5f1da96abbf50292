"""The structure of picture files other than JPEG: which format, whether the file ends early, and its pixels alone.

PIL refuses some files for damage outside of their pixels, which any viewer opens. `without_metadata` makes a file of
the pixels alone for a second try. Nothing here decodes.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS: Final = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
WEBP_PIXELS: Final = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
WEBP_FLAGS: Final = 0x12  # of VP8X: transparency, animation
TIFF_PIXELS: Final = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 284, 292, 293, 317, 318,
     320, 322, 323, 324, 325, 332, 333, 334, 338, 339, 340, 341, 347, *range(512, 522), *range(529, 533)}
)  # fmt: skip
TIFF_DATA: Final = {273: 279, 324: 325}  # offsets of strips and of tiles, and the entries with their lengths
TIFF_SIZES: Final = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of a value by its type, else 1
EXIF_START: Final = b"Exif\0\0"


def kind_of(data: bytes) -> str:
    """The format by the file's first bytes, '' if it is none that is opened."""
    if data.startswith(b"\xff\xd8\xff") or data == b"\xff\xd8":
        return "JPEG"
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] in (b"WEBP", b"WEB", b"WE", b"W"):
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    return ""


def ends_early(data: bytes, kind: str) -> bool:
    """True if the file's own structure says that bytes are missing at its end."""
    try:
        if kind == "PNG":
            return b"IEND" not in (name for name, _, _ in _png_chunks(data))
        if kind == "WEBP":
            return len(data) < 12 or struct.unpack_from("<L", data, 4)[0] + 8 > len(data)
        if kind == "GIF":
            return _gif_ends_early(data)
        if kind == "BMP":
            size, _, start = struct.unpack_from("<LLL", data, 2)
            return bool(max(size, start) > len(data))
        if kind == "TIFF":
            return _tiff_ends_early(data)
    except (struct.error, IndexError):  # a number that the structure needs lies behind the end
        return True
    return False


def damaged_pixels(data: bytes, kind: str) -> str:
    """The fault in the checksums of a PNG's pixels, '' if there is none. PIL does not read them."""
    if kind == "PNG":
        for name, content, checksum in _png_chunks(data):
            if name == b"IDAT" and checksum is not None and checksum != zlib.crc32(content, zlib.crc32(name)):
                return "a checksum of the PNG file's pixels is wrong"
    return ""


def without_metadata(data: bytes, kind: str) -> tuple[bytes, dict[str, Any]] | None:
    """The file with its pixels alone, and its EXIF and XMP under PIL's names; None if there is no such file."""
    if kind == "PNG":
        return _png_pixels(data)
    if kind == "WEBP":
        return _webp_pixels(data)
    return _tiff_pixels(data) if kind == "TIFF" else None


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP file in pixels, (0, 0) if it does not say. PIL takes memory for them on opening."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8 " and len(data) >= 30:
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return 0, 0


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int | None]]:
    """Name, content and stated checksum of each chunk to the end; the checksum of one that is cut is None."""
    place = len(PNG_SIGNATURE)
    while place + 8 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        checksum = int.from_bytes(data[end : end + 4], "big") if end + 4 <= len(data) else None
        yield data[place + 4 : place + 8], data[place + 8 : end], checksum
        if data[place + 4 : place + 8] == b"IEND":
            return
        place = end + 4


def _png_pixels(data: bytes) -> tuple[bytes, dict[str, Any]]:
    parts, info = [PNG_SIGNATURE], {}
    for name, content, checksum in [*_png_chunks(data), (b"IEND", b"", None)]:
        right = zlib.crc32(content, zlib.crc32(name))
        if name in PNG_PIXELS or (name == b"IEND" and checksum is None):
            stated = right if checksum is None else checksum
            parts.append(struct.pack(">L", len(content)) + name + content + struct.pack(">L", stated))
        elif name == b"eXIf" and checksum == right:
            info["exif"] = EXIF_START + content
        elif name == b"iTXt" and content.startswith(b"XML:com.adobe.xmp\0"):
            info["xmp"] = content
    return b"".join(parts), info


def _webp_pixels(data: bytes) -> tuple[bytes, dict[str, Any]]:
    parts, info, place = [], {}, 12
    while place + 8 <= len(data):
        name, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        chunk = data[place : place + 8 + length]
        if len(chunk) < 8 + length:
            break
        if name == b"VP8X" and length >= 10:
            parts.append(chunk[:8] + bytes([chunk[8] & WEBP_FLAGS]) + chunk[9:])
        elif name in WEBP_PIXELS:
            parts.append(chunk + b"\0" * (length % 2))
        elif name == b"EXIF":
            info["exif"] = chunk[8:]
        elif name == b"XMP ":
            info["xmp"] = chunk[8:]
        place += 8 + length + length % 2
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<L", 4 + len(body)) + b"WEBP" + body, info


def _gif_ends_early(data: bytes) -> bool:
    """True if the file ends before its first frame does."""
    place = 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0)
    while data[place] in b"!,":
        frame = data[place] == 0x2C
        if frame:
            flags = data[place + 9]
            place += 11 + (3 << (flags & 7) + 1 if flags & 128 else 0)
        else:
            place += 2
        while data[place]:
            place += 1 + data[place]
        place += 1
        if frame:
            return False
    return False


def _tiff_directory(data: bytes) -> tuple[str, int, dict[int, bytes]]:
    """Byte order, place and entries by tag of the first directory. Not of BigTIFF, which has other entries."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}L", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries: dict[int, bytes] = {}
    for number in range(count):
        place = start + 2 + 12 * number
        (tag,) = struct.unpack_from(f"{order}H", data, place)
        entries.setdefault(tag, struct.unpack_from("12s", data, place)[0])
    return order, start, entries


def tiff_entries_cut(data: bytes) -> bool:
    """True if the value of an entry that a TIFF's decoding needs lies behind the end. PIL decodes without it."""
    if data[2:4] in (b"+\0", b"\0+"):
        return False
    try:
        order, _, entries = _tiff_directory(data)
    except struct.error:
        return True
    places = (_tiff_value(order, entries[tag]) for tag in TIFF_PIXELS & entries.keys())
    return any(start + size > len(data) for _, _, size, start in places)


def _tiff_value(order: str, entry: bytes) -> tuple[int, int, int, int]:
    """Type, count, bytes and place of an entry's value; the place is 0 if the value is in the entry itself."""
    kind, count, inside = struct.unpack_from(f"{order}HL4s", entry, 2)
    size = TIFF_SIZES.get(kind, 1) * count
    return kind, count, size, struct.unpack(f"{order}L", inside)[0] if size > 4 else 0


def _tiff_ends_early(data: bytes) -> bool:
    """True if an entry that decoding needs, or a strip or tile of the first page, lies behind the end."""
    if tiff_entries_cut(data):
        return True
    if data[2:4] in (b"+\0", b"\0+"):
        return False
    order, _, entries = _tiff_directory(data)

    def numbers(tag: int) -> tuple[int, ...]:
        if tag not in entries:
            return ()
        kind, count, _, start = _tiff_value(order, entries[tag])
        layout = f"{order}{count}{'H' if kind == 3 else 'L'}"
        return struct.unpack_from(layout, data if start else entries[tag], start or 8)

    return any(
        start + length > len(data)
        for places, lengths in TIFF_DATA.items()
        for start, length in zip(numbers(places), numbers(lengths), strict=False)
    )


def _tiff_pixels(data: bytes) -> tuple[bytes, dict[str, Any]] | None:
    """The first page: its directory is written anew in its place, shorter."""
    if data[2:4] in (b"+\0", b"\0+"):
        return None
    try:
        order, start, entries = _tiff_directory(data)
    except struct.error:
        return None
    kept = [entry for tag, entry in entries.items() if tag in TIFF_PIXELS]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    directory = directory[: 2 + 12 * len(entries) + 4]
    return data[:start] + directory + data[start + len(directory) :], {}
