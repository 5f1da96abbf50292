"""The table of sources: how each kind is opened. A new source is one module and one row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.errors import ConfigError
from pipeline.site import Site
from pipeline.sources.cambrian import CambrianReader
from pipeline.sources.config import CambrianSource, FolderSource, MiniatureSource
from pipeline.sources.image_folder import open_image_folder
from pipeline.sources.miniature import open_miniature
from pipeline.sources.records import RawSource


def _open_cambrian(source: CambrianSource, scratch: Path) -> RawSource:
    return CambrianReader(Path(source.annotations), Path(source.images))


def _open_folder(source: FolderSource, scratch: Path) -> RawSource:
    return open_image_folder(source)


SOURCES: dict[str, Callable[[Any, Path], RawSource]] = {
    "cambrian": _open_cambrian,
    "image_folder": _open_folder,
    "miniature": open_miniature,
}


def open_source(source: CambrianSource | FolderSource | MiniatureSource, scratch: Path) -> RawSource:
    """Open a raw data set; the miniature world is rendered below `scratch` first. Raises DataError or ConfigError."""
    return SOURCES[source.kind](source, scratch)


def source_of(site: Site, dataset: str) -> RawSource:
    """The source of a data set by name. Raises ConfigError if the site has none of that name."""
    if dataset not in site.sources:
        raise ConfigError(f"the site has no source '{dataset}'; it has {', '.join(sorted(site.sources))}")
    return open_source(site.sources[dataset], Path(site.scratch))


def image_root(site: Site, dataset: str) -> Path:
    """The folder that a data set's image paths start from, on this machine."""
    source = site.sources.get(dataset)
    if isinstance(source, (CambrianSource, FolderSource)):
        return Path(source.images)
    return source_of(site, dataset).images
