"""Untrusted JSON Lines, read line by line in bounded memory; each line is an object or is rejected with a reason."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.sources.records import Rejected

MAX_LINE = 64 << 20  # bytes; a longer line is rejected without being parsed


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line numbers from 1 and lines without their ends; blank lines are left out.

    A line that is longer than MAX_LINE is cut to MAX_LINE + 1 bytes.
    """
    with open(path, "rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            tail = line
            while len(tail) > MAX_LINE and not tail.endswith(b"\n"):
                tail = stream.readline(MAX_LINE + 1)  # the rest of a line that is too long
            if stripped := line.strip():
                yield number, stripped


def parse_object(line: bytes, where: str) -> dict[str, Any] | Rejected:
    """The JSON object of a line. Rejections: 'line_too_long' and 'malformed_json' (also NaN and infinity)."""
    if len(line) > MAX_LINE:
        return Rejected(_line_id(line), "line_too_long", f"{where}: more than {MAX_LINE} bytes")
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8, and numbers that are too large
        return Rejected(_line_id(line), "malformed_json", f"{where}: {error}")
    if not isinstance(value, dict):
        return Rejected(_line_id(line), "malformed_json", f"{where}: is {type(value).__name__}, not an object")
    return value


def _line_id(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value
