"""Reads images by their locators: from a folder, in place from an archive, or from the inventory's own files."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.errors import ImageError
from model.images import MAX_BYTES
from pipeline.sources.files import is_file, open_file, remote
from pipeline.sources.images.archives import Archive, archives_in
from pipeline.sources.images.folders import LocalFolder, RemoteFolder, open_folder
from pipeline.sources.images.locators import KeptPlace, TarPlace, parse_locator

IMAGE_CHANGED = "image_changed"
KEPT_GROUP = 8
"""Images in a row group of the inventory's own files: reading one image reads its group."""


@dataclass(frozen=True)
class ImageStore:
    """The images of a data set. Can be sent to workers on other machines."""

    location: str
    """Path or URL of a folder, or of an archive."""
    kept: str | None = None
    """Path or URL of the inventory's data folder, which holds the images of gzipped archives."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Folder in references -> its real name."""

    def __reduce__(self) -> tuple[type["ImageStore"], tuple[str, str | None, Mapping[str, str]]]:
        """Sent without what it has opened."""
        return type(self), (self.location, self.kept, self.aliases)

    def read(self, locator: str) -> bytes:
        """The bytes of an image.

        Raises ImageError ('path_escape', 'missing_image', 'not_a_file', 'too_large', 'truncated', 'unreadable'), and
        DataError if the images cannot be read now.
        """
        place = parse_locator(locator)
        if isinstance(place, str):
            if self.folder is None:
                raise ImageError("missing_image", f"image {place!r}: {self.location} is no folder")
            return self.folder.read(place)
        return self._kept_bytes(place) if isinstance(place, KeptPlace) else self._member(place)

    def read_checked(self, locator: str, sha256: str) -> bytes:
        """The bytes of an image, checked against the SHA-256 in the inventory.

        Raises ImageError with reason 'image_changed' for other bytes, else as `read`.
        """
        data = self.read(locator)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ImageError(
                IMAGE_CHANGED, f"image {locator!r} changed since the inventory: sha256 {found[:12]}, not {sha256[:12]}"
            )
        return data

    @cached_property
    def folder(self) -> LocalFolder | RemoteFolder | None:
        """The folder of files; None if the images are one archive."""
        return None if is_file(self.location) else open_folder(self.location)

    @cached_property
    def archives(self) -> dict[str, Archive]:
        """The archives by name. Raises DataError if a part is missing."""
        return {archive.name: archive for archive in archives_in(self.location)}

    @cached_property
    def _metadata(self) -> Callable[[str], Any]:
        """Gives the metadata of one of the inventory's files; they do not change while a step runs."""
        return lru_cache(maxsize=32)(_read_metadata)

    def _member(self, place: TarPlace) -> bytes:
        archive = self.archives.get(place.archive)
        if archive is None:
            raise ImageError("missing_image", f"image {place.name!r}: the archive {place.archive} is not there")
        if place.size > MAX_BYTES:
            raise ImageError("too_large", f"image {place.name!r} has {place.size} bytes, more than {MAX_BYTES}")
        data = read_range(archive, place.offset, place.size)
        if len(data) < place.size:
            raise ImageError("truncated", f"image {place.name!r}: {place.archive} ends within it")
        return data

    def _kept_bytes(self, place: KeptPlace) -> bytes:
        if self.kept is None:
            raise ImageError("missing_image", f"image {place.name!r} is in the inventory, which is not at hand")
        path = f"{self.kept}/{place.file}"
        try:
            metadata = self._metadata(path)
            with open_file(path) as stream, pq.ParquetFile(stream, metadata=metadata) as file:
                group = file.read_row_group(place.row // KEPT_GROUP, columns=["bytes"])
        except FileNotFoundError as error:
            raise ImageError("missing_image", f"image {place.name!r}: {path} is not there") from error
        data: bytes = group["bytes"][place.row % KEPT_GROUP].as_py()
        if len(data) > MAX_BYTES:
            raise ImageError("too_large", f"image {place.name!r} has more than {MAX_BYTES} bytes")
        return data


def read_range(archive: Archive, offset: int, size: int) -> bytes:
    """Bytes of an archive, also across its parts; fewer at its end. Safe to call from several threads."""
    pieces, start = [], 0
    for part, length in zip(archive.parts, archive.sizes, strict=True):
        if start + length > offset and size:
            first = offset - start
            piece = _read_part(part, first, min(size, length - first))
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        start += length
    return b"".join(pieces)


def _read_part(part: str, start: int, size: int) -> bytes:
    found = remote(part)
    if found is not None:
        content: bytes = found[0].cat_file(found[1], start=start, end=start + size)
        return content
    with open(part, "rb", buffering=0) as stream:
        stream.seek(start)
        content = b""
        while len(content) < size and (more := stream.read(size - len(content))):
            content += more
        return content


def _read_metadata(path: str) -> Any:
    with open_file(path) as stream:
        return pq.read_metadata(stream)
