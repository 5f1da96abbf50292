"""A folder of images and an annotation file, turned into Cambrian-style records.

With COCO instances, a caption's truth is the union of the instances whose category it mentions, and yes/no questions
about the categories can be made. Truth that depends on an annotation which cannot be used is left out.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.errors import ConfigError, DataError
from pipeline.artifacts.paths import is_url
from pipeline.sources.cambrian import read_record
from pipeline.sources.captions import Captions, read_captions
from pipeline.sources.coco import Instances
from pipeline.sources.config import FolderSource
from pipeline.sources.conversation import IMAGE_TOKEN, INSTRUCTION
from pipeline.sources.files import is_folder
from pipeline.sources.images.references import tidy
from pipeline.sources.interface import Split
from pipeline.sources.mentions import Mentions
from pipeline.sources.metadata_files import below_root, metadata_files
from pipeline.sources.records import Entry, Record, Rejected, Truth, order_key
from pipeline.sources.rows import Rows, batches

TEST_EVERY = 4  # every fourth image, by hash, is for testing
FREQUENT_SHARE = 0.5  # absent categories come from the more frequent half: a rare name would give away the "no"
CAPTION_BYTES = 100  # about the length of a caption with its path, to guess their number
PLURALS = frozenset({"skis", "scissors"})
SUBSTANCES = frozenset({"broccoli"})


class FolderReader:
    """Records made from annotations; the images are below one folder."""

    unit = ""
    """Details name the place themselves: a line, a row or an annotation."""

    def __init__(self, size: int, instances: Instances | None, entries: Callable[[], Iterator[Entry]]) -> None:
        self._size, self._instances, self._entries = size, instances, entries

    @property
    def size(self) -> int:
        """About how many records there are."""
        return self._size

    @property
    def knows_truth(self) -> bool:
        """True if there are instance masks."""
        return self._instances is not None

    @property
    def findings(self) -> tuple[dict[str, dict[str, int]], list[str]]:
        """Counts of the instances file ('annotations_rejected', 'annotations_repaired'), and examples with file and id.

        They are about the whole file, for any split and limit.
        """
        if self._instances is None:
            return {}, []
        findings = self._instances.findings
        counts = {"annotations_rejected": findings.rejected, "annotations_repaired": findings.repaired}
        return {name: dict(sorted(found.items())) for name, found in counts.items() if found}, list(findings.examples)

    def splits(self) -> list[Split]:
        """One: a quoted field of a CSV file may hold line ends, and a JSON file has no lines."""
        return [Split(0)]

    def read(self, split: Split) -> Iterator[Rows]:
        """Every record, in the order of the annotation file."""
        return batches(self._entries())


def open_image_folder(source: FolderSource) -> FolderReader:
    """Open a folder of images. Raises ConfigError or DataError if an annotation file is missing or wrong."""
    if not is_folder(source.images):
        raise DataError(f"image folder {source.images} does not exist; correct its location in the recipe")
    for name in ("captions", "instances"):
        if is_url(getattr(source, name) or ""):
            raise ConfigError(f"{name}: {getattr(source, name)} must be a local file; only images may be elsewhere")
    _refuse_useless(source)
    instances = Instances(Path(source.instances)) if source.instances else None
    if source.records == "existence":
        if instances is None:
            raise ConfigError("records: existence needs 'instances', a COCO instances file; add it to the source")
        return FolderReader(len(instances.files), instances, lambda: existence_records(instances, source.split))
    files = {"": Path(source.captions)} if source.captions else metadata_files(source)
    for captions in files.values():
        if not captions.is_file():
            raise DataError(f"annotation file {captions} does not exist; correct its location in the recipe")
    if not files:
        raise ConfigError(
            "records: captions needs 'captions', a file with captions, or a metadata.jsonl, .csv or .parquet among the "
            "images; add one"
        )
    return FolderReader(
        sum(path.stat().st_size for path in files.values()) // CAPTION_BYTES,
        instances,
        lambda: caption_records(_captions(files, source.caption_column), instances, source.split),
    )


def _refuse_useless(source: FolderSource) -> None:
    """Raise ConfigError for a setting that would have no effect."""
    if source.caption_column is not None and (
        source.records != "captions" or (source.captions or "").endswith(".json")
    ):
        raise ConfigError(
            "caption_column names a column of a CSV, JSON Lines or Parquet file of captions; leave it out"
        )
    if source.annotation_frame is not None and not source.instances:
        raise ConfigError(
            "annotation_frame says what the masks of 'instances' were drawn on; add them, or leave it out"
        )


def _captions(files: dict[str, Path], column: str | None) -> Captions:
    """The rows of all captions files. Keys are the files' paths below the image folder, or empty for another place."""
    for name, path in files.items():
        place = f"{name}, " if name else ""
        for row in read_captions(path, column):
            if isinstance(row, Rejected):
                yield replace(row, detail=place + row.detail)
            else:
                yield row._replace(image=below_root(name, row.image), where=place + row.where)


def in_split(image: str, split: str) -> bool:
    """True if an image belongs to the split 'all', 'train' or 'test', by the hash of its name."""
    return split == "all" or (
        int(hashlib.sha256(image.encode("utf-8", "surrogatepass")).hexdigest(), 16) % TEST_EVERY == 0
    ) == (split == "test")


def record_of(image: Any, question: str, answer: Any, given_id: Any, where: str, number: int) -> Entry:
    """A Cambrian-style record with one turn about an image, or a rejection from `read_record` that says where."""
    turns = [{"from": "human", "value": f"{IMAGE_TOKEN}\n{question}"}, {"from": "gpt", "value": answer}]
    entry = read_record({"id": given_id, "image": image, "conversations": turns}, number)
    return replace(entry, detail=f"{where}: {entry.detail}") if isinstance(entry, Rejected) else entry


def caption_records(captions: Captions, instances: Instances | None, split: str) -> Iterator[Entry]:
    """One record per caption: an instruction, and the caption as its answer."""
    mentions = Mentions(instances.categories) if instances is not None else None
    for row in captions:
        if isinstance(row, Rejected):
            yield row
            continue
        image = tidy(row.image) if isinstance(row.image, str) else str(row.image)
        if not in_split(image, split):
            continue
        entry = record_of(row.image, INSTRUCTION, row.text, row.given_id, row.where, row.line)
        if instances is not None and mentions is not None and isinstance(entry, Record):
            about = sorted(mentions.find(row.text))
            doubt = instances.in_doubt(image, about)
            entry = replace(entry, truth=(instances.truth(image, about),), truth_in_doubt=int(doubt))
        yield entry


def existence_records(instances: Instances, split: str) -> Iterator[Entry]:
    """Yes/no questions: one per category in an image, and as many about categories that are not in it.

    Nothing is asked about a category that is in doubt.
    """
    frequent = instances.by_frequency()
    likely = frequent[: max(1, round(len(frequent) * FREQUENT_SHARE))]
    number = 0
    for image in instances.files:
        if not in_split(tidy(image), split):
            continue
        present = instances.present(image)
        known = [name for name in frequent if not instances.in_doubt(image, [name])]
        absent = _absent(image, present, set(likely) & set(known)) or _absent(image, present, set(known))
        for name in present:
            number += 1
            yield _question(image, name, True, instances.truth(image, [name]), number)
        for name in absent[: len(present)]:
            number += 1
            yield _question(image, name, False, Truth(False, 0, 0, None), number)


def _absent(image: str, present: list[str], categories: set[str]) -> list[str]:
    return sorted(categories - set(present), key=lambda name: order_key("absent", 0, f"{image}:{name}"))


def _question(image: str, name: str, present: bool, truth: Truth | None, number: int) -> Entry:
    verb, thing = "is", f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    if name in PLURALS:
        verb, thing = "are", name
    elif name in SUBSTANCES:
        thing = name
    answer = f"Yes, there {verb} {thing} in the image." if present else f"No, there {verb} no {name} in the image."
    question = f"{verb.capitalize()} there {thing} in the image?"
    entry = record_of(image, question, answer, f"{image}:{name}", f"image {image}, {name}", number)
    return replace(entry, truth=(truth,)) if isinstance(entry, Record) else entry
