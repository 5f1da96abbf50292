"""Look into a bucket: find and open the images whose names fall into it, each once, and number exact copies."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from model.errors import ImageError
from pipeline.artifacts.shards import Content, Seal
from pipeline.inventory.job import InventoryJob, Piece, archive_file, bucket_file, table_of, write_parts
from pipeline.inventory.reading import MAX_DETAIL
from pipeline.sources.images.archives import Archive
from pipeline.sources.images.finder import Finder
from pipeline.sources.images.locators import TarPlace, image_name, parse_locator
from pipeline.sources.images.store import ImageStore
from pipeline.sources.picture_facts import PictureFacts, picture_facts
from pipeline.sources.records import printable

FOUND = pa.schema(
    [
        ("place", pa.int32()),
        ("image", pa.string()),  # its locator
        ("image_sha256", pa.string()),
        ("image_format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("orientation", pa.int8()),
        ("repairs", pa.string()),  # names of rules, with spaces between
        ("reason", pa.string()),  # '' if the image is good
        ("detail", pa.string()),
    ]
)
"""From buckets to pieces: the image of each record that names one."""
COPIES = pa.schema([("place", pa.int32()), ("copy", pa.int32())])
"""From buckets to pieces: the number of each exact copy after the first."""


@dataclass(frozen=True, slots=True)
class Look:
    """An image, or the reason why it cannot be used."""

    image: str = ""
    facts: PictureFacts | None = None
    repairs: str = ""
    reason: str = ""
    detail: str = ""


def bucket_name(number: int) -> str:
    """Name of the commit of a bucket."""
    return f"bucket-{number:05d}"


def look(job: InventoryJob, bucket: int, pieces: Sequence[Piece], archives: Sequence[Seal]) -> Seal:
    """Look into a bucket and commit what was found.

    The seal's facts are 'rejected' (reason -> records), 'examples' (of details) and 'images' (different ones).
    """
    named = [job.read_part(piece.file("named"), bucket) for piece in pieces]
    references = sorted({image for table in named for image in table["image"].to_pylist()})
    looks = look_at(job, references, bucket, archives)
    rejected: Counter[str] = Counter()
    examples: list[tuple[str, str]] = []
    parts = []
    for table in named:
        rows = [looks[image] for image in table["image"].to_pylist()]
        bad = [row for row in rows if row.reason]
        rejected.update(row.reason for row in bad)
        examples += [(row.reason, row.detail) for row in bad[: 3 - len(examples)]]
        parts.append(_found(table["place"], rows))
    copies = list(_copies([job.read_part(piece.file("ids"), bucket) for piece in pieces]))
    files: dict[str, Content] = {
        bucket_file(bucket, "found"): partial(write_parts, parts),
        bucket_file(bucket, "copies"): partial(write_parts, copies),
    }
    facts = {
        "rejected": dict(rejected),
        "examples": examples,
        "images": len({looks[name].image or name for name in references}),
    }
    return job.work.commit(bucket_name(bucket), files, 0, facts)


def look_at(job: InventoryJob, references: Sequence[str], bucket: int, archives: Sequence[Seal]) -> dict[str, Look]:
    """Find and open images. One that is named in several ways is opened once."""
    images = job.dataset.images()
    finder = Finder(images)
    for seal in archives:
        name, number = seal.facts["archive"], seal.facts["number"]
        finder.prefixes[name] = (Archive(name, ()).stem, seal.facts["prefix"])
        chunks = (job.read_part(archive_file(number, chunk), bucket) for chunk in range(seal.facts["chunks"]))
        columns = ((members["name"].to_pylist(), members["locator"].to_pylist()) for members in chunks)
        finder.add(pair for names, locators in columns for pair in zip(names, locators, strict=True))
    looks: dict[str, Look] = {}
    users: dict[str, list[str]] = {}
    for reference in references:
        try:
            found = finder.find(reference)
        except ImageError as error:
            looks[reference] = Look(reason=error.reason, detail=_detail(error))
        else:
            looks[reference] = Look(image=found.locator, repairs=" ".join(found.repairs))
            users.setdefault(found.locator, []).append(reference)
    order = sorted(users, key=_reading_order)
    with ThreadPoolExecutor(max(1, job.threads), thread_name_prefix="images") as pool:
        for locator, (facts, reason, detail) in zip(order, pool.map(partial(_open, images), order), strict=True):
            for reference in users[locator]:
                first = looks[reference]
                looks[reference] = Look(first.image, facts, first.repairs, reason, detail)
    if images.folder is not None and any(found.reason == "missing_image" for found in looks.values()):
        images.folder.check_there()
    return looks


def _reading_order(locator: str) -> tuple[str, int, str]:
    """Members of an archive in the order of their bytes."""
    place = parse_locator(locator)
    return (place.archive, place.offset, "") if isinstance(place, TarPlace) else ("", 0, locator)


def _open(images: ImageStore, locator: str) -> tuple[PictureFacts | None, str, str]:
    """Facts of one image, or None with reason and detail."""
    try:
        data = images.read(locator)
    except ImageError as error:
        return None, error.reason, _detail(error)
    try:
        return picture_facts(data), "", ""
    except ImageError as error:
        return None, error.reason, f"image {image_name(locator)!r}: {_detail(error)}"[:MAX_DETAIL]


def _detail(error: ImageError) -> str:
    return printable(str(error)[:MAX_DETAIL])


def _found(places: pa.Array, looks: Sequence[Look]) -> pa.Table:
    rows = []
    for place, one in zip(places.to_pylist(), looks, strict=True):
        facts = one.facts or PictureFacts("", "", 0, 0, 1)
        what = (facts.sha256, facts.format, facts.width, facts.height, facts.orientation)
        rows.append((place, one.image, *what, one.repairs, one.reason, one.detail))
    return table_of(rows, FOUND)


def _copies(ids: Sequence[pa.RecordBatch]) -> Iterator[pa.Table]:
    """For each piece the places of exact copies and their numbers, in the order of the data."""
    sizes = [len(table) for table in ids]
    high, low, place = (
        np.concatenate([table[name].to_numpy() for table in ids] or [np.zeros(0, np.uint64)])
        for name in ("high", "low", "place")
    )
    piece = np.repeat(np.arange(len(ids)), sizes)
    order = np.lexsort((place, piece, low, high))
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (high[order][1:] != high[order][:-1]) | (low[order][1:] != low[order][:-1])
    positions = np.arange(len(order))
    number = np.empty(len(order), dtype=np.int32)
    number[order] = positions - np.maximum.accumulate(np.where(fresh, positions, 0))
    copy = number > 0
    for index in range(len(ids)):
        mine = copy & (piece == index)
        yield pa.table([pa.array(place[mine].astype(np.int32)), pa.array(number[mine])], schema=COPIES)
