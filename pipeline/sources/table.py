"""The table of sources: the function that opens each kind. A new source is one module and one row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.sources.cambrian import CambrianReader
from pipeline.sources.config import CambrianSource, FolderSource, MiniatureSource
from pipeline.sources.image_folder import open_image_folder
from pipeline.sources.miniature import open_miniature
from pipeline.sources.records import RawSource

AnySource = CambrianSource | FolderSource | MiniatureSource


def _open_cambrian(source: CambrianSource, scratch: Path) -> RawSource:
    return CambrianReader(Path(source.annotations), Path(source.images))


def _open_folder(source: FolderSource, scratch: Path) -> RawSource:
    return open_image_folder(source)


SOURCES: dict[str, Callable[[Any, Path], RawSource]] = {
    "cambrian": _open_cambrian,
    "image_folder": _open_folder,
    "miniature": open_miniature,
}


def open_source(source: AnySource, scratch: Path) -> RawSource:
    """Open a raw data set; the miniature world is rendered below `scratch` first. Raises DataError or ConfigError."""
    return SOURCES[source.kind](source, scratch)


@dataclass(frozen=True)
class ImageFolder:
    """The folder that a source's image paths start from. Can be sent to workers on other machines."""

    source: AnySource
    scratch: Path

    def path(self) -> Path:
        """The local path of the folder. A machine that has not rendered the miniature world yet renders it now."""
        if isinstance(self.source, MiniatureSource):
            return open_miniature(self.source, self.scratch).images
        return Path(self.source.images)
