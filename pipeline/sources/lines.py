"""Untrusted JSON Lines, read by byte range in bounded memory; each line is an object or is rejected with a reason."""

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

from model.errors import DataError
from pipeline.sources.records import Rejected, given_id

MAX_LINE = 64 << 20  # bytes; a longer line is rejected without being parsed
MAX_DIGITS = 4000  # Python refuses to read longer whole numbers
BLOCK = 1 << 19  # bytes that are read at once; more is slower: what is made of them no longer fits into a cache
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")


def check_encoding(head: bytes, path: str) -> None:
    """Raise DataError if the first bytes of a file are those of UTF-16 or UTF-32 text, or of a gzipped file."""
    if head.startswith(GZIP):
        raise DataError(f"{path} is gzipped; give it a name that ends with .gz")
    if head.startswith(_WIDE_MARKS) or (len(head) > 1 and 0 in head[:2]):
        raise DataError(f"{path} is UTF-16 or UTF-32 text; write it as UTF-8, e.g. iconv -f UTF-16 -t UTF-8")


def line_blocks(stream: IO[bytes], start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The lines whose first byte is in [start, end), as blocks of whole lines with their ends.

    So consecutive ranges give every line exactly once, wherever they meet. A line of more than MAX_LINE bytes is a
    block of its own, cut to MAX_LINE + 1 bytes and a line end.
    """
    # The byte before `start` tells whether a line begins at `start`, so reading begins there.
    position = max(0, start - 1)
    stream.seek(position)
    if start:
        skipped = _skip_line(stream)
        if skipped is None:
            return
        rest, position = skipped[0], position + skipped[1]
    else:
        rest = stream.read(BLOCK)
        mark = len(BYTE_ORDER_MARK) if rest.startswith(BYTE_ORDER_MARK) else 0
        rest, position = rest[mark:], mark
        if end is not None:
            end = max(end, mark + 1)  # the first line begins before the mark
    while end is None or position < end:
        stop = rest.find(b"\n", max(0, end - 1 - position)) + 1 if end is not None else 0
        if stop:  # the last line that begins before `end`
            yield rest[:stop]
            return
        whole = rest.rfind(b"\n") + 1
        if whole:
            yield rest[:whole]
            rest, position = rest[whole:], position + whole
        elif len(rest) > MAX_LINE:
            yield rest[: MAX_LINE + 1] + b"\n"
            skipped = _skip_line(stream)
            if skipped is None:
                return
            position += len(rest) + skipped[1]
            rest = skipped[0]
            continue
        more = stream.read(BLOCK)
        if not more:
            if rest:
                yield rest
            return
        rest += more


def _skip_line(stream: IO[bytes]) -> tuple[bytes, int] | None:
    """Read past the next line end. Returns the bytes after it and the number of bytes up to it; None at the end."""
    passed = 0
    while more := stream.read(BLOCK):
        found = more.find(b"\n") + 1
        if found:
            return more[found:], passed + found
        passed += len(more)
    return None


def split_lines(block: bytes) -> list[bytes]:
    """The lines of a block without their ends."""
    lines = block.split(b"\n")
    return lines[:-1] if not lines[-1] else lines


def raw_lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Line numbers from 1 and all lines with their ends (LF or CRLF), cut as in `line_blocks`."""
    # Not `splitlines`, which also ends a line at a CR alone.
    pieces = (re.findall(rb"[^\n]*\n|[^\n]+", block) for block in line_blocks(stream))
    return enumerate(itertools.chain.from_iterable(pieces), start=1)


def parse_object(line: bytes, number: int) -> dict[str, Any] | Rejected:
    """The JSON object of a line.

    Rejections: 'line_too_long' and 'malformed_json'. NaN is read, because data frames write it for a missing value; a
    number that is too large is read as infinity. `repeated_keys` tells whether an object has a key twice.
    """
    if len(line) > MAX_LINE:
        return Rejected(line_id(line), "line_too_long", f"more than {MAX_LINE} bytes", number)
    try:
        value = json.loads(
            line.decode("utf-8"), parse_constant=_constant, parse_int=_integer, object_pairs_hook=_object
        )
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8, and numbers that are too large
        return Rejected(line_id(line), "malformed_json", str(error), number)
    if not isinstance(value, dict):
        return Rejected(line_id(line), "malformed_json", f"is {type(value).__name__}, not an object", number)
    return value


def line_id(line: bytes) -> str:
    """The id of a line that is no record: the hash of its bytes."""
    return hashlib.sha256(line).hexdigest()


def given_id_of(raw: dict[str, Any]) -> str:
    """A raw object's own id as text; '' if it has none."""
    return given_id(raw.get("id"))


class _Repeated(dict[str, Any]):
    """An object in which keys occur twice; the last value counts."""

    keys_twice: frozenset[str] = frozenset()


def repeated_keys(value: Any) -> frozenset[str]:
    """The keys that occur twice in an object that `parse_object` read."""
    return value.keys_twice if isinstance(value, _Repeated) else frozenset()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = _Repeated(found)
    repeated.keys_twice = frozenset(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
    return repeated


def _constant(name: str) -> float:
    if name != "NaN":
        raise ValueError(f"{name} is not JSON")
    return math.nan


def _integer(text: str) -> float:
    return int(text) if len(text) <= MAX_DIGITS else math.inf
