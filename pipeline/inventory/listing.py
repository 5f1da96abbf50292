"""List an archive: the name of each member, and where its bytes are.

A tar archive is read in place later. The images of a gzipped archive or a Parquet file are copied, in one pass, into
files of the inventory's own, because nothing in them can be read alone.
"""

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from pipeline.artifacts.shards import Seal, folder_content
from pipeline.inventory.job import InventoryJob, archive_file, buckets_of, deal, file_key, write_parts
from pipeline.sources.files import stamp_of
from pipeline.sources.images.archives import Archive
from pipeline.sources.images.locators import KeptPlace, TarPlace
from pipeline.sources.images.members import Links, Listing, Streamed, member_path
from pipeline.sources.images.references import folded, tidied
from pipeline.sources.images.store import KEPT_GROUP
from pipeline.sources.parquet import parquet_images

MEMBERS = pa.schema([("name", pa.string()), ("locator", pa.string())])
KEPT = pa.schema([("name", pa.string()), ("bytes", pa.binary())])
FILE_BYTES = 256 << 20
"""A file of kept images is closed at this size."""
MEMBERS_AT_ONCE = 262144


def archive_name(number: int) -> str:
    """Name of the commit of an archive."""
    return f"archive-{number:05d}"


def list_archive(job: InventoryJob, number: int, archive: Archive) -> Seal:
    """List and commit an archive.

    The seal's facts are 'archive' (its name), 'number', 'stamp' (of its files), 'prefix' (folders that all members are
    in), 'damage', 'chunks' (number of files) and 'images' (the commits of the images that it wrote into the artifact).
    """
    stamp = stamp_of_archive(archive)
    with tempfile.TemporaryDirectory(prefix="agevlm-") as temporary:
        folder = Path(temporary)
        listing: Listing | Streamed | _Parquet
        kept: list[Seal] = []
        if archive.in_place:
            listing = Listing(archive)
            members = _in_place(listing)
        else:
            listing = _Parquet(archive) if archive.column else Streamed(archive)
            wanted = (m for m in listing if job.wanted is None or file_key(m[0]) in job.wanted)
            members = _kept(wanted, job, number, kept)
        chunks = _Chunks(folder, number, job.buckets)
        for name, locator in members:
            chunks.add(name, locator)
        chunks.flush()
        chunks.add_links(listing.links)
        (folder / archive_file(number)).write_bytes(b"")  # a commit has at least one file
        prefix = _valid("/".join(chunks.prefix or []))
        facts = {
            "archive": archive.name,
            "number": number,
            "stamp": stamp,
            "prefix": prefix,
            "damage": listing.damage,
            "chunks": chunks.written,
        }
        facts["images"] = [seal.model_dump(mode="json") for seal in kept]
        return job.work.commit(archive_name(number), folder_content(folder), 0, facts)


def needed(archives: Sequence[Archive], references: Iterable[str], aliases: Mapping[str, str]) -> list[int]:
    """The numbers of the archives that may hold some images: for a limited run, which must not read all of them.

    An image's archive is one that is called like a folder of its path, as `coco.tar` for 'coco/1.jpg'. If there is none
    for some image, all archives may hold it.
    """
    called: dict[str, set[int]] = defaultdict(set)
    for number, archive in enumerate(archives):
        called[archive.name if archive.column else folded(archive.stem)].add(number)
    found: set[int] = set()
    for reference in references:
        path = tidied(reference, aliases).path
        names = {path.rpartition("#")[0], *folded(path).split("/")[:-1]}
        holders = set().union(*(called[name] for name in names if name in called))
        if not holders:
            return list(range(len(archives)))
        found |= holders
    return sorted(found)


def stamp_of_archive(archive: Archive) -> list[str]:
    """Another value once a file of the archive was written again, also with the same size. Raises OSError."""
    return [stamp_of(part) for part in archive.parts]


class _Parquet:
    """A Parquet file's images, in the form of the other archives."""

    damage = ""

    def __init__(self, archive: Archive) -> None:
        self._archive, self.links = archive, Links()

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return parquet_images(self._archive, self._archive.column)


def _in_place(listing: Listing) -> Iterator[tuple[str, str]]:
    for member in listing:
        yield member.name, TarPlace(listing.archive.name, member.offset, member.size, member.name).text()


def _kept(
    members: Iterator[tuple[str, bytes]], job: InventoryJob, number: int, kept: list[Seal]
) -> Iterator[tuple[str, str]]:
    """Write the images into files of the artifact, whose commits are added to `kept`."""
    file = 0
    while True:
        path = f"images/archive-{number:05d}-{file:05d}.parquet"
        rows: list[dict[str, Any]] = []
        names: list[str] = []
        size = 0
        with tempfile.TemporaryDirectory(prefix="agevlm-") as temporary:
            local = Path(temporary) / "images.parquet"
            with pq.ParquetWriter(local, KEPT, compression="none", use_dictionary=False, write_statistics=False) as out:
                for name, data in members:
                    rows.append({"name": _valid(name), "bytes": data})
                    names.append(name)
                    size += len(data)
                    if len(rows) == KEPT_GROUP:
                        out.write_table(pa.Table.from_pylist(rows, schema=KEPT), row_group_size=KEPT_GROUP)
                        rows = []
                    if size >= FILE_BYTES:
                        break
                if rows:
                    out.write_table(pa.Table.from_pylist(rows, schema=KEPT), row_group_size=KEPT_GROUP)
            if not names:
                return
            commit = f"images-{number:05d}-{file:05d}"
            kept.append(job.shards.commit(commit, {path: partial(shutil.copyfile, local)}, 0))
        # Only now, after the commit: so no locator names a file that is not there.
        for row, name in enumerate(names):
            yield name, KeptPlace(path, row, name).text()
        file += 1


@dataclass
class _Chunks:
    """Writes members into files of MEMBERS_AT_ONCE, each dealt to buckets."""

    folder: Path
    number: int
    buckets: int
    names: list[str] = field(default_factory=list)
    locators: list[str] = field(default_factory=list)
    prefix: list[str] | None = None
    """Folders that all members so far are in."""
    written: int = 0

    def add(self, raw: str, locator: str) -> None:
        """Add a member."""
        name = member_path(raw)
        folders = name.split("/")[:-1]
        self.prefix = folders if self.prefix is None else _common(self.prefix, folders)
        self.names.append(_valid(name))
        self.locators.append(_valid(locator))
        if len(self.names) == MEMBERS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the members that wait."""
        if self.names:
            columns = [pa.array(self.names, pa.string()), pa.array(self.locators, pa.string())]
            receivers = buckets_of(self.names, self.buckets)
            path = self.folder / archive_file(self.number, self.written)
            write_parts(deal(pa.table(columns, schema=MEMBERS), receivers, self.buckets), path)
            self.written += 1
            self.names, self.locators = [], []

    def add_links(self, links: Links) -> None:
        """Add the links to members that were written; others lead out of the archive, or nowhere."""
        names = {_valid(member): found for member, found in links.names().items()}
        places: dict[str, str] = {}
        for chunk in range(self.written if names else 0):
            with (
                pa.OSFile(str(self.folder / archive_file(self.number, chunk))) as file,
                pa.ipc.open_file(file) as reader,
            ):
                table = reader.read_all()
            members = table.filter(pc.is_in(table["name"], pa.array(list(names), pa.string())))
            places.update(zip(members["name"].to_pylist(), members["locator"].to_pylist(), strict=True))
        for member, locator in places.items():
            for name in names[member]:
                self.add(name, locator)
        self.flush()


def _common(first: list[str], second: list[str]) -> list[str]:
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    return first[:same]


def _valid(text: str) -> str:
    """The text as valid UTF-8: bytes of a name that are not UTF-8 are written as escape sequences."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
