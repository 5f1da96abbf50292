"""A folder of images and an annotation file, turned into Cambrian-style records.

Captions come as COCO captions JSON, or as CSV or JSON Lines with the columns `image` and `caption`. With COCO
instances, a caption's truth is the union of the instances whose category it mentions, and yes/no questions about the
categories can be made.
"""

import csv
import hashlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import ConfigError, DataError
from pipeline.sources.cambrian import read_record, tidy
from pipeline.sources.coco import Instances, file_names, read_json
from pipeline.sources.config import FolderSource
from pipeline.sources.conversation import IMAGE_TOKEN
from pipeline.sources.lines import parse_object, read_lines
from pipeline.sources.mentions import Mentions
from pipeline.sources.records import Entry, Record, Rejected, Truth, order_key

INSTRUCTION = "Describe the image."
TEST_EVERY = 4  # every fourth image, by hash, is for testing
FREQUENT_SHARE = 0.5  # absent categories come from the more frequent half: a rare name would give away the "no"
PLURALS = frozenset({"skis", "scissors"})
SUBSTANCES = frozenset({"broccoli"})


class FolderReader:
    """Records made from annotations; the images are below one folder."""

    def __init__(self, images: Path, knows_truth: bool, entries: Callable[[], Iterator[Entry]]) -> None:
        self._images, self._knows_truth, self._entries = images, knows_truth, entries

    @property
    def images(self) -> Path:
        """The folder that image paths start from."""
        return self._images

    @property
    def knows_truth(self) -> bool:
        """True if there are instance masks."""
        return self._knows_truth

    def entries(self) -> Iterator[Entry]:
        """Every record, in the order of the annotation file."""
        return self._entries()


def open_image_folder(source: FolderSource) -> FolderReader:
    """Open a folder of images. Raises ConfigError or DataError if an annotation file is missing or wrong."""
    images = Path(source.images)
    if not images.is_dir():
        raise DataError(f"image folder {images} does not exist; correct its location in the recipe")
    instances = Instances(Path(source.instances)) if source.instances else None
    if source.records == "existence":
        if instances is None:
            raise ConfigError("records: existence needs 'instances', a COCO instances file; add it to the source")
        return FolderReader(images, True, lambda: existence_records(instances, source.split))
    if not source.captions:
        raise ConfigError("records: captions needs 'captions', a file with captions; add it to the source")
    captions = Path(source.captions)
    if not captions.is_file():
        raise DataError(f"annotation file {captions} does not exist; correct its location in the recipe")
    return FolderReader(
        images, instances is not None, lambda: caption_records(read_captions(captions), instances, source.split)
    )


def in_split(image: str, split: str) -> bool:
    """True if an image belongs to the split 'all', 'train' or 'test', by the hash of its name."""
    return split == "all" or (
        int(hashlib.sha256(image.encode("utf-8", "surrogatepass")).hexdigest(), 16) % TEST_EVERY == 0
    ) == (split == "test")


def record_of(image: Any, question: str, answer: Any, given_id: Any, where: str) -> Entry:
    """A Cambrian-style record with one turn about an image, or a rejection from `read_record`."""
    turns = [{"from": "human", "value": f"{IMAGE_TOKEN}\n{question}"}, {"from": "gpt", "value": answer}]
    return read_record({"id": given_id, "image": image, "conversations": turns}, where)


class Caption(NamedTuple):
    """A row of a captions file. Its values are not checked yet."""

    image: Any
    text: Any
    given_id: Any
    where: str
    """The row's place in the file, for messages."""


def read_captions(path: Path) -> Iterator[Caption | Rejected]:
    """The captions of a COCO file, CSV or JSON Lines, by the file's suffix. Raises DataError."""
    readers = {".json": _coco_captions, ".csv": _csv_captions, ".jsonl": _jsonl_captions, ".ndjson": _jsonl_captions}
    if path.suffix not in readers:
        raise DataError(f"captions file {path}: give a .json (COCO), .csv or .jsonl file")
    return readers[path.suffix](path)


def _coco_captions(path: Path) -> Iterator[Caption]:
    raw = read_json(path, "images", "annotations")
    files = file_names(path, raw["images"])
    for number, row in enumerate(raw["annotations"]):
        key, given = row.get("image_id"), row.get("id")
        image = files.get(key) if isinstance(key, Hashable) else None  # None for an unknown id: it will be rejected
        yield Caption(image, row.get("caption"), given, f"annotation {number if given is None else given}")


def _csv_captions(path: Path) -> Iterator[Caption]:
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        rows = csv.DictReader(stream)
        try:
            if not {"image", "caption"} <= set(rows.fieldnames or ()):
                raise DataError(f"captions file {path} needs columns 'image' and 'caption'; it has {rows.fieldnames}")
            for row in rows:
                yield Caption(row["image"], row["caption"], row.get("id"), f"line {rows.line_num}")
        except csv.Error as error:
            raise DataError(
                f"captions file {path}, line {rows.line_num}: {error}; correct the line (is a quote left open?)"
            ) from error


def _jsonl_captions(path: Path) -> Iterator[Caption | Rejected]:
    for number, line in read_lines(path):
        where = f"line {number}"
        row = parse_object(line, where)
        if isinstance(row, Rejected):
            yield row
        else:
            yield Caption(row.get("image"), row.get("caption"), row.get("id"), where)


def caption_records(captions: Iterator[Caption | Rejected], instances: Instances | None, split: str) -> Iterator[Entry]:
    """One record per caption: an instruction, and the caption as its answer."""
    mentions = Mentions(instances.categories) if instances is not None else None
    for row in captions:
        if isinstance(row, Rejected):
            yield row
            continue
        image = tidy(row.image) if isinstance(row.image, str) else str(row.image)
        if not in_split(image, split):
            continue
        entry = record_of(row.image, INSTRUCTION, row.text, row.given_id, row.where)
        if instances is not None and mentions is not None and isinstance(entry, Record):
            entry = replace(entry, truth=(instances.truth(image, sorted(mentions.find(row.text))),))
        yield entry


def existence_records(instances: Instances, split: str) -> Iterator[Entry]:
    """Yes/no questions: one per category in an image, and as many about categories that are not in it."""
    frequent = instances.by_frequency()
    likely = frequent[: max(1, round(len(frequent) * FREQUENT_SHARE))]
    for image in instances.files:
        if not in_split(tidy(image), split):
            continue
        present = instances.present(image)
        absent = _absent(image, present, likely) or _absent(image, present, frequent)
        for name in present:
            yield _question(image, name, True, instances.truth(image, [name]))
        for name in absent[: len(present)]:
            yield _question(image, name, False, Truth(False, 0, 0, None))


def _absent(image: str, present: list[str], categories: list[str]) -> list[str]:
    return sorted(set(categories) - set(present), key=lambda name: order_key("absent", 0, f"{image}:{name}"))


def _question(image: str, name: str, present: bool, truth: Truth | None) -> Entry:
    verb, thing = "is", f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    if name in PLURALS:
        verb, thing = "are", name
    elif name in SUBSTANCES:
        thing = name
    answer = f"Yes, there {verb} {thing} in the image." if present else f"No, there {verb} no {name} in the image."
    question = f"{verb.capitalize()} there {thing} in the image?"
    entry = record_of(image, question, answer, f"{image}:{name}", f"image {image}, {name}")
    return replace(entry, truth=(truth,)) if isinstance(entry, Record) else entry
