"""CSV read strictly: every line is a row, part of a row, or is rejected with a reason. No line is lost.

A quoted field may run over line ends only if the quote is closed before a comma or a line end, the row then has as many
fields as the header, and none of the lines that it takes in begins (or ends) like another row, with an image's name in
the image's column (or nothing in it). Otherwise the line that opened the quote is rejected, and reading goes on with
the next line.
"""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.sources.lines import MAX_LINE
from pipeline.sources.plain_lines import NO_IMAGE

MAX_ROW = 1000  # lines of one row


class _StrayQuote(Exception):
    """A quote that is open at the end of its line cannot be closed by a later line."""


class Row(NamedTuple):
    """One row, or one line that is rejected."""

    line: int
    """The number of its first line, from 1."""
    text: bytes
    """Its lines, with their ends."""
    fields: tuple[str, ...] = ()
    reason: str = ""
    """Why it is rejected: 'malformed_csv' or 'line_too_long'; empty if it is good."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """The form of every row, as the header states it."""

    width: int
    """Number of fields."""
    image: int
    """The image's column, from 0."""


class Window:
    """Numbered lines, with a view ahead."""

    def __init__(self, lines: Iterator[tuple[int, bytes]]) -> None:
        self._lines = lines
        self._ahead: deque[tuple[int, bytes]] = deque()

    def take(self) -> tuple[int, bytes] | None:
        """Go on by one line: its number and text; None after the last."""
        return self._ahead.popleft() if self._ahead else next(self._lines, None)

    def peek(self, distance: int) -> bytes | None:
        """The text of a line that `take` will give later, 0 for the next one; None after the last."""
        while len(self._ahead) <= distance:
            line = next(self._lines, None)
            if line is None:
                return None
            self._ahead.append(line)
        return self._ahead[distance][1]


def read_rows(lines: Iterator[tuple[int, bytes]], shape: Shape) -> Iterator[Row]:
    """The rows below the header, from numbered lines with their ends. Blank lines between rows are left out."""
    window = Window(lines)
    while (line := window.take()) is not None:
        if line[1].strip():
            yield _read_row(window, shape, *line)


def split_line(line: bytes) -> tuple[str, ...]:
    """The fields of a row that is one line. Raises csv.Error."""
    if b"\0" in line:
        raise csv.Error("holds a NUL character")
    return tuple(next(csv.reader([_decoded(line)], strict=True)))


def _read_row(window: Window, shape: Shape, number: int, line: bytes) -> Row:
    """The row that begins with a line that was taken. Takes the row's other lines."""
    if len(line) > MAX_LINE:
        return Row(number, line, reason="line_too_long", detail=f"line {number}: more than {MAX_LINE} bytes")
    more: list[bytes] = []
    try:
        try:
            fields = split_line(line)
        except csv.Error:  # perhaps because a quote is open at its end
            fields = tuple(next(csv.reader(_lines_of_row(window, shape, line, more), strict=True)))
    except (csv.Error, _StrayQuote) as error:
        fault = str(error)
    else:
        if len(fields) == shape.width:
            for _ in more:
                window.take()
            return Row(number, b"".join([line, *more]), fields)
        fault = f"{len(fields)} fields, the header has {shape.width}; a field that holds a comma needs quotes around it"
    return Row(number, line, reason="malformed_csv", detail=f"line {number}: {fault}")


def _lines_of_row(window: Window, shape: Shape, first: bytes, more: list[bytes]) -> Iterator[str]:
    """The lines that csv.reader asks for: one more as long as a quote is open. Raises _StrayQuote.

    more: gets the lines after the first.
    """
    taken = [_decoded(first)]
    complete: list[str] = []  # the fields so far, if the open quote were closed here
    while True:
        if "\0" in taken[-1]:
            raise csv.Error("holds a NUL character")
        yield taken[-1]
        if '"' in taken[-1]:
            complete = next(csv.reader([*taken, '"'], strict=True))
        line = window.peek(len(more))
        if line is None or len(line) > MAX_LINE or len(taken) == MAX_ROW:
            raise _StrayQuote(f"the quote of field {len(complete)} is not closed")
        if _is_stray(shape, complete, taken[-1], _decoded(line)):
            raise _StrayQuote(f"the quote of field {len(complete)} is open when the next row begins")
        more.append(line)
        taken.append(_decoded(line))


def _is_stray(shape: Shape, fields: list[str], line: str, following: str) -> bool:
    """True if there are two rows on both sides of a line end, at which the quote of the last of `fields` is open."""
    opened = len(fields) - 1
    if opened == shape.image:
        return True  # no file name has a line end
    if opened < shape.image:  # the image comes later in a row: does a row end here?
        parts = line.split(",")
        return len(parts) >= shape.width and _is_file_name(_bare(parts[shape.image - shape.width]))
    parts = following.split(",")  # the image comes first: does a row begin here?
    if len(parts) < shape.width:
        return False
    own, name = fields[shape.image], _bare(parts[shape.image])
    if _is_file_name(name) or (len(parts) == shape.width and name in NO_IMAGE):
        return True
    return not _is_file_name(own) and len(name.split()) == 1  # names without suffix, digit and slash


def _bare(part: str) -> str:
    return part.strip().strip('"')


def _is_file_name(text: str) -> bool:
    """True for 'my dog.jpg', '17' and 'train/dog'; False for 'However' and 'In 2014'."""
    _, dot, suffix = text.rpartition(".")
    if dot and 2 <= len(suffix) <= 5 and suffix.isalnum() and suffix[0].isalpha():
        return True
    return len(text.split()) == 1 and any(character in "0123456789/\\" for character in text)


def _decoded(line: bytes) -> str:
    """Text; bytes that are not UTF-8 become lone surrogates, which are rejected later for what they are in."""
    return line.decode("utf-8", "surrogateescape")
