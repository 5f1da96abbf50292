"""Hugging Face's layout of an image folder: files metadata.jsonl, .csv or .parquet beside the images.

Such a file may be in the folder itself and in folders below it, as train/metadata.jsonl. Its rows name images by
`file_name`, relative to the file's own folder.
"""

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.errors import DataError
from pipeline.artifacts.paths import is_url
from pipeline.sources.config import FolderSource
from pipeline.sources.plain_lines import NO_IMAGE

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def metadata_files(source: FolderSource) -> dict[str, Path]:
    """The metadata files that a source reads its captions from: path below the image folder -> file, sorted.

    Empty if the source names a captions file, or has no captions. Hidden folders are left out, as Hugging Face does.
    Raises DataError for two metadata files in one folder, and for a link out of the image folder.
    """
    if source.captions or source.records != "captions" or is_url(source.images):
        return {}
    return dict(sorted(_found(Path(source.images))))


def _found(root: Path) -> Iterator[tuple[str, Path]]:
    real_root = os.path.realpath(root)
    for folder, below, names in os.walk(root, onerror=_raise):
        below[:] = [name for name in below if not name.startswith((".", "__"))]
        here = [name for name in NAMES if name in names]
        if len(here) > 1:
            raise DataError(f"{folder} has both {here[0]} and {here[1]}; keep one, or name one as 'captions'")
        for name in here:
            path = Path(folder, name)
            if os.path.commonpath([real_root, os.path.realpath(path)]) != real_root:
                raise DataError(f"{path} is a link out of the image folder; name the file itself as 'captions'")
            yield path.relative_to(root).as_posix(), path


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read ({error.strerror}); correct that, or name 'captions'") from error


def below_root(metadata: str, image: Any) -> Any:
    """The path below the image folder of an image that a metadata file names; other values are returned unchanged."""
    folder = posixpath.dirname(metadata)
    if not folder or not isinstance(image, str) or image in NO_IMAGE or "://" in image:
        return image
    return posixpath.join(folder, image)
