"""Checks that a JPEG file has all of its pixels.

PIL says nothing when libjpeg warns, and libjpeg only warns when pixels are missing: a file that was cut and closed with
an end marker opens with a grey lower part. Here libjpeg-turbo's warnings are heard, and told apart: what costs pixels
is an error, what does not (bytes between segments or behind the end, odd version numbers) is none.

A file without its end marker is whole if its last scan has all of its bits: every viewer shows it whole.
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import simplejpeg
from PIL import Image

from model.errors import ImageError

SIGNATURE: Final = b"\xff\xd8\xff"
END: Final = b"\xff\xd9"
MOST_WORK: Final = 1_600_000_000
"""Pixels times scans: more are refused, because a scan of a few bytes may take the time of a whole picture. Files in
use have about ten scans."""
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SEQUENTIAL: Final = frozenset({0xC0, 0xC1, 0xC9})
PROGRESSIVE: Final = frozenset({0xC2, 0xCA})
COMMON: Final = SEQUENTIAL | PROGRESSIVE
ALONE: Final = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})  # markers without a length, and no markers at all
NEEDED: Final = FRAMES | {0xC4, 0xCC, 0xDB, 0xDD}  # frames, Huffman, arithmetic and quantisation tables, restarts
SEGMENT: Final = struct.Struct(">BBH")  # 0xff, marker, length
FRAME: Final = struct.Struct(">HBHHB")  # length, bits, height, width, number of components
SCAN, ADOBE, EXIF_OR_XMP = 0xDA, 0xEE, 0xE1
ADOBE_COLOURS: Final = (b"\0", b"\1", b"\2")
NEXT_MARKER: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # inside a scan, 0xff00 is a byte and 0xffd0 a restart
MISSING: Final = ("premature end", "found marker 0xd9 instead of RST")
CORRUPT: Final = ("bad Huffman code", "bad arithmetic code", "instead of RST")
HARMLESS: Final = ("extraneous bytes", "unknown JFIF revision", "Adobe color transform", "Inconsistent progression",
                   "Invalid SOS parameters")  # fmt: skip


@dataclass(slots=True)
class Header:
    """The segments of a JPEG file before its first scan."""

    width: int = 0
    """Pixels as stored, before any rotation; as is the height."""
    height: int = 0
    precision: int = 8
    """Bits of a sample."""
    frame: int = 0
    """The marker of the frame: the way of coding."""
    components: tuple[int, ...] = ()
    """Identifiers of the colour components."""
    exif: bytes = b""
    xmp: bytes = b""
    scan: int = 0
    """Offset of the first scan's marker."""


def read_header(data: bytes) -> Header:
    """Read the segments before the first scan. Raises ImageError, reason 'truncated' or 'undecodable'."""
    header, place = Header(), 2
    for marker, place, end in segments(data):
        if marker == SCAN:
            if not header.components:
                raise ImageError("undecodable", "the JPEG file has a scan without a frame")
            header.scan = place - 2
            return header
        if marker in FRAMES:
            content = data[place:end]
            if len(content) < FRAME.size or len(content) < FRAME.size + 3 * content[7]:
                raise ImageError("undecodable", f"the JPEG file has a frame of {len(content)} bytes")
            _, header.precision, header.height, header.width, count = FRAME.unpack_from(content)
            header.frame, header.components = marker, tuple(content[8::3][:count])
        elif marker == EXIF_OR_XMP:
            content = data[place + 2 : end]
            if content.startswith(b"Exif\0\0"):
                header.exif += content[6:] if header.exif else content
            elif content.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                header.xmp = content.split(b"\0", 1)[1]
    raise ImageError("truncated", "the JPEG file ends before its pixels")


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments up to the first scan's header: marker, and where its content starts (its length) and ends.

    Bytes between segments are passed over, as libjpeg does. A segment that is cut, or an end marker, ends them.
    """
    place, size = 2, len(data)
    while place + 4 <= size:
        first, marker, length = SEGMENT.unpack_from(data, place)
        if first != 0xFF:
            place = data.find(b"\xff", place)
            if place < 0:
                return
        elif marker == 0xFF:  # a marker may begin with several
            place += 1
        elif marker in ALONE:
            place += 2
        else:
            end = place + 2 + max(length, 2)
            if end > size or marker == END[1]:
                return
            yield marker, place + 2, end
            if marker == SCAN:
                return
            place = end


def check_pixels(data: bytes, header: Header) -> None:
    """Decode all of a JPEG file's pixels, an eighth as wide and high: every bit is read, and few pixels are made.

    Raises ImageError with reason 'truncated' (pixels are missing), 'undecodable', 'unsupported_mode' (not 8 bits) or
    'bomb' (too many scans).
    """
    if header.precision != 8:
        raise ImageError("unsupported_mode", f"the JPEG file has {header.precision} bits for a sample, not 8")
    if not header.width or not header.height:
        raise ImageError("undecodable", f"the JPEG file has {header.width} x {header.height} pixels")
    if header.frame not in COMMON:  # lossless or hierarchical
        return _check_with_pil(data, "the JPEG file is coded in an uncommon way")
    plain = b""
    if header.frame in PROGRESSIVE or data[header.scan + 4 : header.scan + 5] != bytes([len(header.components)]):
        plain, scans = without_metadata(data, header)
        if len(scans) * header.width * header.height > MOST_WORK:
            size = f"{header.width} x {header.height} pixels"
            raise ImageError("bomb", f"the JPEG file has {len(scans)} scans of {size}, too many to decode")
        _check_scans(header, scans)
    message = _complaint(data, header)
    if not message:
        return
    # libjpeg tells its first complaint only: leave out what may cause a harmless one.
    message = _complaint(plain or without_metadata(data, header)[0], header)
    if any(text in message for text in MISSING):
        raise ImageError("truncated", f"pixels are missing: {message}")
    if any(text in message for text in CORRUPT):
        raise ImageError("undecodable", message)
    if message and not any(text in message for text in HARMLESS):
        _check_with_pil(data, message)


def without_metadata(data: bytes, header: Header) -> tuple[bytes, list[bytes]]:
    """The file with what decoding needs and nothing else, closed by an end marker; and the headers of its scans.

    A sequential scan must state all 64 coefficients; some writers state others, which libjpeg ignores with a warning.
    """
    parts, scans, place = [SIGNATURE[:2]], [], header.scan
    for marker, start, end in segments(data):
        adobe = (
            marker == ADOBE and data[start + 2 : start + 7] == b"Adobe" and data[start + 13 : end][:1] in ADOBE_COLOURS
        )
        if marker in NEEDED or adobe:
            parts.append(data[start - 2 : end])
    while True:
        marker = data[place + 1]
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        end = place + 2 + max(length, 2)
        if end > len(data):
            break
        segment = data[place:end]
        if marker == SCAN:
            if header.frame in SEQUENTIAL:
                segment = segment[:-3] + b"\x00\x3f\x00"
            found = NEXT_MARKER.search(data, end)
            parts += [segment, data[end : found.start() if found else len(data)]]
            scans.append(segment[4:])
        else:
            if marker in NEEDED:
                parts.append(segment)
            found = NEXT_MARKER.search(data, end)
        if found is None or data[found.end() - 1] == END[1]:
            break
        place = found.end() - 2
    return b"".join(parts) + END, scans


def _check_scans(header: Header, scans: list[bytes]) -> None:
    """Every coefficient of every component must have come, to its last bit: a file may have been cut between scans."""
    lowest = {component: [16] * 64 for component in header.components}  # the lowest bit that has come so far
    for scan in scans:
        count = scan[0] if scan else 0
        if len(scan) < 4 + 2 * count:
            raise ImageError("undecodable", f"the JPEG file has the header of a scan in {len(scan)} bytes")
        first, last, bits = scan[1 + 2 * count : 4 + 2 * count]
        for component in scan[1 : 1 + 2 * count : 2]:
            if component in lowest and last < 64:
                lowest[component][first : last + 1] = [bits & 15] * (last + 1 - first)
    if any(bit for bits in lowest.values() for bit in bits):
        raise ImageError("truncated", f"the JPEG file has {len(scans)} scans, and they do not hold the whole picture")


def _complaint(data: bytes, header: Header) -> str:
    """libjpeg-turbo's first error or warning on this file, empty if it has none."""
    colours = "CMYK" if len(header.components) == 4 else "GRAY"
    try:
        simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        return str(error)
    return ""


def _check_with_pil(data: bytes, message: str) -> None:
    """Open a file that simplejpeg cannot (uncommon subsampling) with PIL. Raises ImageError."""
    try:
        Image.open(io.BytesIO(data), formats=("JPEG",)).load()
    except Exception as error:  # PIL's plugins raise nearly every type on hostile files
        raise ImageError("undecodable", f"{message}; {type(error).__name__}: {error}") from error
