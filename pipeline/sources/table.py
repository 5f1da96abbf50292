"""The table of sources: how each kind is opened, and where its images are. A new source is one module and one row."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.sources.cambrian import CambrianReader
from pipeline.sources.config import AnySource, Source
from pipeline.sources.image_folder import open_image_folder
from pipeline.sources.images.archives import Archive, archives_in
from pipeline.sources.images.store import ImageStore
from pipeline.sources.interface import RawSource
from pipeline.sources.miniature import open_miniature
from pipeline.sources.parquet import ParquetReader, parquet_archives


@dataclass(frozen=True)
class SourceKind:
    """One row of the table. Both functions get the source's settings and a folder for what must be rendered first."""

    open: Callable[[Any, Path], RawSource]
    images: Callable[[Any, Path], str]
    """Gives the path or URL of the images."""
    archives: Callable[[Any], list[Archive]] = lambda source: archives_in(source.images)
    """Gives the archives whose members must be listed."""


SOURCES: dict[str, SourceKind] = {
    "cambrian": SourceKind(lambda s, _: CambrianReader(s.annotations), lambda s, _: s.images),
    "image_folder": SourceKind(lambda s, _: open_image_folder(s), lambda s, _: s.images),
    "parquet": SourceKind(lambda s, _: ParquetReader(s), lambda s, _: s.files, parquet_archives),
    "miniature": SourceKind(
        lambda s, scratch: open_miniature(s, scratch).reader,
        lambda s, scratch: str(open_miniature(s, scratch).images),
        lambda _: [],
    ),
}


def open_source(source: AnySource, scratch: Path) -> RawSource:
    """Open a raw data set; the miniature world is rendered below `scratch` first. Raises DataError or ConfigError."""
    return SOURCES[source.kind].open(source, scratch)


@dataclass(frozen=True)
class DataSet:
    """A raw data set as a value that can be sent to workers on other machines."""

    source: Source
    scratch: Path
    """Local folder; a machine that has not rendered the miniature world there yet does so."""
    kept: str | None = None
    """Path or URL of its inventory's data folder, once there is one."""
    version: str = ""
    """Fingerprint of the raw data: records of another version that this process opened earlier are not used."""

    def archives(self) -> list[Archive]:
        """Its archives of images."""
        return SOURCES[self.source.kind].archives(self.source)

    def open(self) -> RawSource:
        """Its records; each version is opened once in a process."""
        return _opened(self.source.model_dump_json(), type(self.source), self.scratch, self.version)

    def images(self) -> ImageStore:
        """Its images."""
        location = SOURCES[self.source.kind].images(self.source, self.scratch)
        return ImageStore(location, self.kept, getattr(self.source, "folder_aliases", {}))


@lru_cache(maxsize=4)
def _opened(settings: str, kind: type[AnySource], scratch: Path, version: str) -> RawSource:
    return open_source(kind.model_validate_json(settings), scratch)
