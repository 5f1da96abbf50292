"""Cambrian's own layout: JSON Lines beside an image tree.

A line is `{"id": ..., "image": "./coco/1.jpg", "conversations": [{"from": "human", "value": "<image>\\n..."}, ...]}`;
further keys are tolerated. Every line has an id, also one that is not JSON, so that a `limit` chooses among all alike.
"""

import hashlib
import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.errors import DataError
from pipeline.sources.conversation import BadConversation, read_turns
from pipeline.sources.records import Entry, Record, Rejected, Truth, canonical_id

NO_IMAGE = ("", "none", "None", "nan")  # the spellings of "no image" that Cambrian's own loader knows
MAX_LINE = 64 << 20  # bytes; a longer line is rejected without being parsed


class CambrianReader:
    """Reads a JSON Lines file line by line, in bounded memory."""

    def __init__(self, annotations: Path, images: Path, truth: Path | None = None) -> None:
        """Open a data set.

        Args:
            annotations: the JSON Lines file.
            images: the folder that image paths start from.
            truth: JSON Lines with one line for each line of `annotations`: `{"turns": [TRUTH or null, ...]}`, where
                TRUTH is `{"present": bool, "height": int, "width": int, "rle": text or null}`.

        Raises DataError if something is missing, or if the file is one JSON array.
        """
        self._annotations, self._images, self._truth = annotations, images, truth
        for path in (annotations, truth):
            if path is not None and not path.is_file():
                raise DataError(f"annotation file {path} does not exist; correct its location in the recipe")
        if not images.is_dir():
            raise DataError(f"image folder {images} does not exist; correct its location in the recipe")
        with open(annotations, "rb") as stream:
            if stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
                raise DataError(
                    f"{annotations} is one JSON array, not JSON Lines; write one record a line, "
                    f"e.g. jq -c '.[]' {annotations.name} > {annotations.stem}.jsonl"
                )

    @property
    def images(self) -> Path:
        """The folder that image paths start from."""
        return self._images

    @property
    def knows_truth(self) -> bool:
        """Whether there is a truth file."""
        return self._truth is not None

    def entries(self) -> Iterator[Entry]:
        """Every line in order, as a record or rejected by name."""
        truths = None if self._truth is None else _lines(self._truth)
        for number, line in _lines(self._annotations):
            entry = parse_line(line, f"line {number}")
            if truths is not None:
                row = next(truths, (0, b""))[1]
                if isinstance(entry, Record):
                    entry = _with_truth(entry, row, f"line {number} of {self._truth}")
            yield entry


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line numbers from 1 and lines without their ends; blank lines are no records."""
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


def parse_line(line: bytes, where: str) -> Entry:
    """A record from one line of JSON, or a rejection: 'line_too_long', 'malformed_json', or as `read_record`."""
    if len(line) > MAX_LINE:
        return Rejected(_line_id(line), "line_too_long", f"{where}: more than {MAX_LINE} bytes")
    try:
        raw = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        if not isinstance(raw, dict):
            return Rejected(_line_id(line), "malformed_json", f"{where}: is {type(raw).__name__}, not an object")
        return read_record(raw, where)
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8, and numbers that are too large
        return Rejected(_line_id(line), "malformed_json", f"{where}: {error}")


def _line_id(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def read_record(raw: dict[str, Any], where: str) -> Entry:
    """A record from Cambrian's raw form; the image is not looked at.

    Rejections: 'bad_image_reference' (not text), and those of `read_turns`. Raises ValueError on an infinite number.
    """
    image, conversations = raw.get("image"), raw.get("conversations")
    sample_id = canonical_id(image, conversations)
    if image is not None and not isinstance(image, (str, int, float)):
        return Rejected(sample_id, "bad_image_reference", f"{where}: 'image' is {type(image).__name__}, not a path")
    try:
        turns = read_turns(conversations)
    except BadConversation as error:
        return Rejected(sample_id, error.reason, f"{where}: {error}")
    reference = "" if image is None else str(image)
    given = raw.get("id")
    return Record(
        sample_id=sample_id,
        given_id="" if given is None else _printable(str(given)),
        image=None if reference in NO_IMAGE else _tidy(reference),
        turns=turns,
    )


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _tidy(reference: str) -> str:
    """A path without './' and doubled slashes, so that two spellings are one image; '..' and roots stay as they are."""
    parts = [part for part in reference.split("/") if part not in ("", ".")]
    if reference.startswith("/") or ".." in parts or "://" in reference or not parts:
        return reference
    return posixpath.join(*parts)


def _with_truth(record: Record, line: bytes, where: str) -> Record:
    try:
        rows = json.loads(line)["turns"]
        truth = tuple(
            None if row is None else Truth(row["present"], row["height"], row["width"], row["rle"]) for row in rows
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where} is not ground truth ({error}); make the file again") from error
    if len(truth) != len(record.turns):
        raise DataError(f"{where} has {len(truth)} turns, but the record has {len(record.turns)}; make it again")
    return Record(record.sample_id, record.given_id, record.image, record.turns, truth)
