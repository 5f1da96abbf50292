"""Cambrian's own layout: JSON Lines beside an image tree.

A line is `{"id": ..., "image": "./coco/1.jpg", "conversations": [{"from": "human", "value": "<image>\\n..."}, ...]}`;
further keys are ignored. A text-only record has neither an image nor the image token. Every line gets an id, even one
that is not JSON, so that a `limit` chooses among all lines.
"""

import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.errors import DataError
from pipeline.sources.conversation import BadConversation, asks_about_image, read_turns
from pipeline.sources.lines import parse_object, read_lines
from pipeline.sources.records import Entry, Record, Rejected, Truth, canonical_id, printable

NO_IMAGE = ("", "none", "None", "nan")  # the spellings of "no image" that Cambrian's own loader knows


class CambrianReader:
    """Reads a JSON Lines file line by line, in bounded memory."""

    def __init__(self, annotations: Path, images: Path, truth: Path | None = None) -> None:
        """Open a data set.

        Args:
            annotations: the JSON Lines file.
            images: the folder that image paths start from.
            truth: JSON Lines with one line for each line of `annotations`: `{"turns": [TRUTH or null, ...]}`, where
                TRUTH is `{"present": bool, "height": int, "width": int, "rle": text or null}`.

        Raises DataError if a file or folder is missing, or if the annotation file is one JSON array.
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
        """True if there is a truth file."""
        return self._truth is not None

    def entries(self) -> Iterator[Entry]:
        """Every line in order, as a record or as a rejection with its reason."""
        truths = None if self._truth is None else read_lines(self._truth)
        for number, line in read_lines(self._annotations):
            entry = parse_line(line, f"line {number}")
            if truths is not None:
                row = next(truths, (0, b""))[1]
                if isinstance(entry, Record):
                    entry = _with_truth(entry, row, f"line {number} of {self._truth}")
            yield entry


def parse_line(line: bytes, where: str) -> Entry:
    """A record from one line of JSON, or a rejection from `parse_object` or `read_record`."""
    raw = parse_object(line, where)
    return raw if isinstance(raw, Rejected) else read_record(raw, where)


def read_record(raw: dict[str, Any], where: str) -> Entry:
    """A record from a raw JSON object in Cambrian's layout. Does not open the image.

    Rejections: 'malformed_json' (a number or a nesting depth that JSON cannot write), 'bad_image_reference' (not text),
    'no_image_reference' (a question has the image token, but there is no image), and those of `read_turns`.
    """
    image, conversations = raw.get("image"), raw.get("conversations")
    try:
        sample_id = canonical_id(image, conversations)
    except (ValueError, RecursionError) as error:
        return Rejected(canonical_id(None, where), "malformed_json", f"{where}: {error}")
    if image is not None and not isinstance(image, str):
        return Rejected(sample_id, "bad_image_reference", f"{where}: 'image' is {type(image).__name__}, not a path")
    try:
        turns = read_turns(conversations)
    except BadConversation as error:
        return Rejected(sample_id, error.reason, f"{where}: {error}")
    reference = None if image is None or image in NO_IMAGE else tidy(image)
    if reference is None and asks_about_image(conversations):
        return Rejected(sample_id, "no_image_reference", f"{where}: asks about an image, but 'image' is {image!r}")
    given = raw.get("id")
    return Record(
        sample_id=sample_id,
        given_id=printable(str(given)) if isinstance(given, str | int | float) else "",
        image=reference,
        turns=turns,
    )


def tidy(reference: str) -> str:
    """An image path without './' and doubled slashes, so that two spellings are one image.

    Absolute paths, URLs and paths with '..' are returned unchanged; they are rejected when the image is opened.
    """
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
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where} is not ground truth ({error}); make the file again") from error
    if len(truth) != len(record.turns):
        raise DataError(f"{where} has {len(truth)} turns, but the record has {len(record.turns)}; make it again")
    return Record(record.sample_id, record.given_id, record.image, record.turns, truth)
