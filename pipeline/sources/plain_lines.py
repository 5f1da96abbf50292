"""The fast way to read JSON Lines: whole blocks of plain records, decoded and checked with msgspec.

A record is *plain* if nothing about it needs a decision: LLaVA's field names and roles in order, one image token as the
first thing that is said if there is an image and none else, and words in each answer. Every other line goes to
`careful`, which is the definition of what a record is: a test checks that both give the same.
"""

import codecs
import hashlib
import itertools
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from pipeline.sources.conversation import IMAGE_TOKEN
from pipeline.sources.lines import split_lines
from pipeline.sources.records import Entry, source_name
from pipeline.sources.rows import Rows

Careful = Callable[[bytes, int], Entry]
"""Reads one line, given its number."""
_LEAD, _TAIL = IMAGE_TOKEN + "\n", "\n" + IMAGE_TOKEN
_ESCAPES = "agevlm-json"
_BLANK = msgspec.UNSET
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
_TOKEN_BYTES = IMAGE_TOKEN.encode("ascii")
_KEYS = ("conversations", "image", "from", "value")
_PADDING = b" " * (max(map(len, _KEYS)) + 2)
_sha256 = hashlib.sha256
NO_IMAGE = frozenset({"", "none", "None", "nan"})
"""The spellings of "no image" that Cambrian's own loader knows."""


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: str = msgspec.field(name="from")
    text: str = msgspec.field(name="value")


class _Line(msgspec.Struct, gc=False):
    """The fields in the order of canonical JSON, so that encoding a line without `id` and the rest gives it."""

    conversations: list[_Message]
    image: str | msgspec.UnsetType | None = _BLANK
    id: str | int | msgspec.UnsetType | None = _BLANK
    source: str | msgspec.UnsetType | None = _BLANK
    video: msgspec.Raw | msgspec.UnsetType = _BLANK


_DECODER = msgspec.json.Decoder(_Line)
_encode = msgspec.json.Encoder().encode


def read_plain(block: bytes, before: int, careful: Careful) -> Rows:
    """Read a block of whole lines; `before` lines of the split come before it.

    What becomes of a line does not depend on the others: a block is taken whole only if each of its lines would be.
    """
    lines: list[_Line] | list[_Line | None] | None = _decoded(block)
    raw: list[bytes] = []
    if lines is None:
        raw = split_lines(block)
        singles = (_decoded(line) if line.strip() else None for line in raw)
        lines = [single[0] if single else None for single in singles]
    firsts, moved = _first_questions(block, lines)
    if not raw and None in firsts:
        raw = split_lines(block)
    rows, start = Rows(), 0
    for place, first in enumerate([*firsts, None]):
        if first is None:  # the end of a run of plain lines
            if start < place:
                shift = rows.entries - start
                first_moved, end_moved = (bisect_left(moved, position) for position in (start, place))
                rows.changes += [(n + shift, "image_token_moved") for n in moved[first_moved:end_moved]]
                _add_run(rows, lines[start:place], firsts[start:place], before + start)  # type: ignore[arg-type]
            if place < len(lines) and raw[place].strip():
                rows.add(careful(raw[place], before + place + 1))
            start = place + 1
    rows.last = before + len(lines)
    return rows


def _decoded(block: bytes) -> list[_Line] | None:
    """The lines of a block, decoded; None if some line may be no JSON, or may be read in two ways."""
    try:
        lines = _DECODER.decode_lines(block)
        if not block.isascii():
            block.decode("utf-8")  # also the texts of keys that are ignored
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return lines if lines and _one_per_line(block, len(lines)) and not _repeated_keys(block, lines) else None


def _one_per_line(block: bytes, count: int) -> bool:
    """True if the block has exactly one object in each line: JSON itself allows line ends between any two tokens."""
    content = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(content == ord("\n"))
    inner = ends[:-1] if len(ends) and ends[-1] == len(content) - 1 else ends
    if len(inner) and not inner[0]:
        return False  # the first line is blank
    whole = (content[inner - 1] == ord("}")) & (content[inner + 1] == ord("{"))
    return bool(len(inner) == count - 1 and whole.all())


def _repeated_keys(block: bytes, lines: list[_Line]) -> bool:
    """True if a key that matters may occur twice in an object. Inside a text its quotes would be escaped."""
    # Every line has at least as many as are counted here, so equal sums are equal numbers in each line.
    messages = sum([len(line.conversations) for line in lines])
    images = sum([line.image is not _BLANK for line in lines])
    found = _count_keys(block)
    return (
        found["conversations"] != len(lines)
        or found["image"] != images
        or found["from"] != messages
        or found["value"] != messages
        or _ESCAPED_ASCII.search(block) is not None  # a key, or the image token, may be written with escapes
        or b"\x7f" in block  # the one ASCII character that Python's JSON escapes and msgspec does not
    )


def _count_keys(block: bytes) -> dict[str, int]:
    """The number of places where each key stands in the block between quotes.

    All bytes are searched once, for quotes; `bytes.count` would search them once for each key.
    """
    content = np.frombuffer(block + _PADDING, dtype=np.uint8)
    quotes = np.flatnonzero(content == ord('"'))
    found = {}
    for key in _KEYS:
        at = quotes
        for offset, character in enumerate(f'{key}"', start=1):
            at = at[content[at + offset] == ord(character)]
        found[key] = len(at)
    return found


def _first_questions(block: bytes, lines: Sequence[_Line | None]) -> tuple[list[str | None], list[int]]:
    """The first question of each plain record, cleaned, or None for one that is not plain.

    Also the positions of the records whose image token came after the question; some of them may not be plain.
    """
    firsts: list[str | None] = []
    moved: list[int] = []
    shown = 0
    for line in lines:
        if line is None:
            firsts.append(None)
            continue
        image = line.image
        if image is _BLANK:
            image = line.image = None
        first = _first_of_chat(line.conversations) if line.video is _BLANK else None
        if first is not None and image is not None:
            if first.startswith(_LEAD) and image not in NO_IMAGE:
                first = first[len(_LEAD) :]
                shown += 1
            elif first.endswith(_TAIL) and image not in NO_IMAGE:  # LLaVA has it before or after the instruction
                first = first[: -len(_TAIL)]
                shown += 1
                moved.append(len(firsts))
            else:
                first = None
        firsts.append(first)
    # If the block has no more image tokens than were found, the texts have no other.
    if block.count(_TOKEN_BYTES) != shown:
        firsts = [
            None if line is None or first is None or _has_token(first, line.conversations) else first
            for line, first in zip(lines, firsts, strict=True)
        ]
    return firsts, moved


def _has_token(first: str, messages: list[_Message]) -> bool:
    return IMAGE_TOKEN in first or any(IMAGE_TOKEN in message.text for message in messages[1:])


def _first_of_chat(messages: list[_Message]) -> str | None:
    """The first question of a chat in which human and gpt alternate and each answer has words; None for another."""
    if len(messages) == 2:
        question, answer = messages
        text = answer.text
        if question.role == "human" and answer.role == "gpt" and text and not text.isspace():
            return question.text
        return None
    pairs, odd = divmod(len(messages), 2)
    roles = [message.role for message in messages]
    if not pairs or odd or roles != ["human", "gpt"] * pairs:
        return None
    if any(not message.text or message.text.isspace() for message in messages[1::2]):
        return None
    return messages[0].text


def _add_run(rows: Rows, lines: list[_Line], firsts: Sequence[str | None], before: int) -> None:
    """Add plain records that follow each other, column by column; `before` lines come before them."""
    places = range(rows.entries, rows.entries + len(lines))
    rows.entries += len(lines)
    rows.places.extend(places)
    rows.numbers.extend(range(before + 1, before + 1 + len(lines)))
    given = [line.id for line in lines]
    rows.given_ids.extend([value if value.__class__ is str else _number(value) for value in given])
    rows.sources.extend(_sources(lines))
    rows.images.extend([line.image for line in lines])  # type: ignore[misc]
    turns = [len(line.conversations) >> 1 for line in lines]
    texts = [message.text for line in lines for message in line.conversations]
    questions = texts[::2]
    for position, first in zip(itertools.accumulate(turns, initial=0), firsts, strict=False):
        questions[position] = first  # type: ignore[assignment]
    rows.turns.extend(turns)
    rows.questions.extend([text.strip() for text in questions])
    rows.answers.extend([text.strip() for text in texts[1::2]])
    for line in lines:
        line.id = line.source = _BLANK
    canonical = [_encode(line) for line in lines]
    rows.sample_ids.extend(
        [_sha256(text if text.isascii() else text.decode().encode("ascii", _ESCAPES)).hexdigest() for text in canonical]
    )


def _number(value: object) -> str:
    return str(value) if value.__class__ is int else ""


def _sources(lines: list[_Line]) -> list[str]:
    """`source_name` of each line; images of one folder have one source."""
    known: dict[str, str] = {}
    found = []
    for line in lines:
        source, image = line.source, line.image
        if source.__class__ is str and source:
            found.append(source)
        elif image.__class__ is str:
            end = image.rfind("/")
            folder = image[: end + 1]
            name = known.get(folder)
            if name is None:
                name = source_name(None, f"{folder}x")
                known[folder] = name
            found.append(name)
        else:
            found.append("")
    return found


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Characters that are not ASCII as Python's JSON writes them: their UTF-16 units, as \\uXXXX."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be").hex()
    return "".join([f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4)]), error.end


codecs.register_error(_ESCAPES, _escape)
