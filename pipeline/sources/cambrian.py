"""Cambrian's own layout: JSON Lines (or a JSON array, or either gzipped), and images in folders or archives.

A line is `{"id": ..., "image": "./coco/1.jpg", "conversations": [{"from": "human", "value": "<image>\\n..."}, ...]}`;
further keys are ignored, except 'source'. A text-only record has neither an image nor the image token. Plain JSON Lines
are read in byte ranges, in parallel; the other forms from start to end.
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from model.errors import DataError
from pipeline.sources.conversation import BadConversation, read_conversation
from pipeline.sources.files import is_gzipped, open_file, open_stream, require_file, size_of
from pipeline.sources.interface import Split
from pipeline.sources.json_array import array_elements
from pipeline.sources.lines import (
    BYTE_ORDER_MARK,
    check_encoding,
    given_id_of,
    line_blocks,
    parse_object,
    repeated_keys,
    split_lines,
)
from pipeline.sources.plain_lines import NO_IMAGE, read_plain
from pipeline.sources.records import Entry, Record, Rejected, Truth, canonical_id, printable, source_name
from pipeline.sources.rows import Rows, batches

SPLIT_BYTES = 32 << 20
RECORD_BYTES = 500  # about the length of a line, to guess their number; a gzipped one takes a fourth
HEAD = 4096
KEYS = frozenset({"image", "conversations", "video"})
"""Keys of a record that decide what it is."""


class CambrianReader:
    """Reads an annotation file in bounded memory."""

    def __init__(self, annotations: str, truth: str | None = None) -> None:
        """Open a data set.

        Args:
            annotations: path or URL of the annotation file.
            truth: JSON Lines with one line for each line of `annotations`: `{"turns": [TRUTH or null, ...]}`, where
                TRUTH is `{"present": bool, "height": int, "width": int, "rle": text or null}`. Then the file is read
                from start to end.

        Raises DataError if a file is missing, or is neither UTF-8 nor JSON.
        """
        self._annotations, self._truth = annotations, truth
        for path in (annotations, truth):
            if path is not None:
                require_file(path)
        with open_stream(annotations) as stream:
            try:
                head = stream.read(HEAD)
            except (OSError, EOFError) as error:
                raise DataError(f"annotation file {annotations} cannot be read: {error}; download it again") from error
        check_encoding(head, annotations)
        self._is_array = head.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"[")
        self._bytes = size_of(annotations)

    @property
    def knows_truth(self) -> bool:
        """True if there is a truth file."""
        return self._truth is not None

    @property
    def findings(self) -> tuple[dict[str, dict[str, int]], list[str]]:
        """None: every fault is a record's."""
        return {}, []

    @property
    def unit(self) -> str:
        """'line', or 'record' of an array."""
        return "record" if self._is_array else "line"

    @property
    def size(self) -> int:
        """About how many records there are."""
        return self._bytes * (4 if is_gzipped(self._annotations) else 1) // RECORD_BYTES

    def splits(self) -> Sequence[Split]:
        """Byte ranges of plain JSON Lines; else one split."""
        if self._is_array or self._truth is not None or is_gzipped(self._annotations):
            return [Split(0)]
        starts = range(0, max(1, self._bytes), SPLIT_BYTES)
        return [
            Split(number, start=start, end=min(start + SPLIT_BYTES, self._bytes)) for number, start in enumerate(starts)
        ]

    def read(self, split: Split) -> Iterator[Rows]:
        """The records of a split."""
        if self._is_array:
            with open_stream(self._annotations) as stream:
                elements = array_elements(stream, self._annotations)
                yield from batches(parse_line(text, number) for number, text in enumerate(elements, start=1))
        elif self._truth is not None:
            yield from batches(self._entries_with_truth(self._truth))
        else:
            with open_stream(self._annotations) if split.end is None else open_file(self._annotations) as stream:
                number = 0
                for block in line_blocks(stream, split.start, split.end):
                    rows = read_plain(block, number, parse_line)
                    yield rows
                    number = rows.last

    def _entries_with_truth(self, truth: str) -> Iterator[Entry]:
        with open_stream(self._annotations) as lines, open_stream(truth) as truths:
            rows = (line for block in line_blocks(truths) for line in split_lines(block))
            numbered = (line for block in line_blocks(lines) for line in split_lines(block))
            for number, line in enumerate(numbered, start=1):
                if line.strip():
                    entry, row = parse_line(line, number), next(rows, b"")
                    yield _with_truth(entry, row, f"line {number} of {truth}") if isinstance(entry, Record) else entry


def parse_line(line: bytes, number: int) -> Entry:
    """A record from one line of JSON, or a rejection from `parse_object` or `read_record`."""
    raw = parse_object(line.strip(), number)
    return raw if isinstance(raw, Rejected) else read_record(raw, number)


def read_record(raw: dict[str, Any], number: int) -> Entry:
    """A record from a raw JSON object in Cambrian's layout. Does not open the image.

    Rejections: 'malformed_json' (a number or a nesting depth that JSON cannot write), 'duplicate_keys' (of keys that
    matter: readers differ on which counts), 'video', 'multi_image', 'bad_image_reference' (not text), 'path_escape' (no
    Unicode text), 'no_image_reference' (a question has the image token, but there is no image), and those of
    `read_conversation`.
    """
    image, conversations, given = raw.get("image"), raw.get("conversations"), given_id_of(raw)
    if isinstance(image, float) and math.isnan(image):
        image = None
    changes: list[str] = []
    try:
        sample_id = canonical_id(image, conversations)
    except (ValueError, RecursionError) as error:
        return Rejected(canonical_id(None, given), "malformed_json", str(error), number, given)

    def rejected(reason: str, detail: str) -> Rejected:
        return Rejected(sample_id, reason, detail, number, given)

    turns = conversations if isinstance(conversations, list) else []
    twice = (repeated_keys(raw) & KEYS).union(*map(repeated_keys, turns))
    if twice:
        return rejected("duplicate_keys", f"the key {min(twice)!r} occurs twice")
    if raw.get("video") not in (None, *NO_IMAGE, []):
        return rejected("video", f"has 'video': {str(raw['video'])[:200]!r}; videos are not read")
    if isinstance(image, list):
        if len(image) > 1:
            return rejected("multi_image", f"has {len(image)} images; only one is read")
        image = image[0] if image else None
        changes.append("image_list")
    if image is not None and not isinstance(image, str):
        return rejected("bad_image_reference", f"'image' is {type(image).__name__}, not a path")
    if image is not None and printable(image) != image:
        return rejected("path_escape", f"image {image[:200]!r} is no file name")
    try:
        conversation = read_conversation(conversations)
    except BadConversation as error:
        return rejected(error.reason, str(error))
    reference = None if image is None or image in NO_IMAGE else image
    if reference is None and conversation.asks_about_image:
        return rejected("no_image_reference", f"asks about an image, but 'image' is {raw.get('image')!r}")
    if reference is not None and not conversation.asks_about_image:
        changes.append("image_token_added")
    return Record(
        sample_id=sample_id,
        given_id=given,
        image=reference,
        turns=conversation.turns,
        number=number,
        source=source_name(raw.get("source"), reference),
        changes=(*changes, *conversation.changes),
    )


def _with_truth(record: Record, line: bytes, where: str) -> Record:
    try:
        rows = json.loads(line)["turns"]
        truth = tuple(
            None if row is None else Truth(row["present"], row["height"], row["width"], row["rle"]) for row in rows
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where} is not ground truth ({error}); make the file again") from error
    if len(truth) != len(record.turns):
        raise DataError(f"{where} has {len(truth)} turns, but the record has {len(record.turns)}; make it again")
    return Record(
        record.sample_id,
        record.given_id,
        record.image,
        record.turns,
        truth,
        record.number,
        record.source,
        record.changes,
    )
