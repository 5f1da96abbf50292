"""A JSON file that is one array of objects, read element by element in bounded memory."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO

from model.errors import DataError
from pipeline.sources.lines import BLOCK, MAX_LINE

_SPACE = re.compile(r"[ \t\r\n]*")


def array_elements(stream: IO[bytes], path: str) -> Iterator[bytes]:
    """The elements of the array as JSON text, each in one line. Raises DataError where the file stops being JSON.

    Unlike a bad line, a bad element ends the reading: nothing says where the next one begins.
    """
    decoder = json.JSONDecoder()
    reader = _Text(stream, path)
    reader.expect("[")
    if reader.peek() == "]":
        reader.expect("]")
    else:
        while True:
            yield _one_line(reader.element(decoder))
            if reader.peek() == "]":
                reader.expect("]")
                break
            reader.expect(",")
    if reader.peek():
        raise reader.error("text after the end of the array")


def _one_line(text: str) -> bytes:
    """White space in JSON text may hold line ends, its strings may not."""
    return text.replace("\n", " ").replace("\r", " ").encode("utf-8", "surrogatepass")


class _Text:
    """The text of a file, read as far as needed."""

    def __init__(self, stream: IO[bytes], path: str) -> None:
        self._stream, self._path = stream, path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._position, self._passed, self._ended = "", 0, 0, False

    def _more(self) -> bool:
        """Read the next block; False at the end of the file."""
        if self._ended:
            return False
        block = self._stream.read(BLOCK)
        self._ended = not block
        try:
            fresh = self._decode.decode(block, self._ended)
        except UnicodeDecodeError as error:
            raise self.error(f"not UTF-8 ({error.reason})") from error
        self._passed += self._position
        self._text, self._position = self._text[self._position :] + fresh, 0
        return not self._ended

    def peek(self) -> str:
        """The next character that is no white space; '' at the end."""
        while True:
            match = _SPACE.match(self._text, self._position)
            assert match is not None
            self._position = match.end()
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._more():
                return ""

    def expect(self, character: str) -> None:
        """Read past this character. Raises DataError if the next one is another."""
        found = self.peek()
        if found != character:
            raise self.error(f"expected {character!r}, found {found!r}" if found else "it ends within the array")
        self._position += 1

    def element(self, decoder: json.JSONDecoder) -> str:
        """The text of the next value. Raises DataError if it is no JSON, or longer than MAX_LINE characters."""
        self.peek()
        while True:
            try:
                _, end = decoder.raw_decode(self._text, self._position)
            except (ValueError, RecursionError) as error:
                # Either the value is cut off at the end of what was read so far, or it is no JSON.
                if len(self._text) - self._position > MAX_LINE:
                    raise self.error(f"an element of more than {MAX_LINE} characters") from error
                if not self._more():
                    raise self.error(str(error)) from error
                continue
            if end == len(self._text) and self._more():
                continue  # a number may go on in the next block
            text = self._text[self._position : end]
            self._position = end
            return text

    def error(self, problem: str) -> DataError:
        return DataError(
            f"{self._path} is no JSON array from character {self._passed + self._position} on: {problem}; "
            "correct it, or write one record a line (jq -c '.[]'), so that a bad record costs only itself"
        )
