"""Files of raw data on this machine's disk or an object store (`s3://`, any fsspec URL), plain or gzipped."""

import gzip
import os
import zlib
from pathlib import Path
from typing import IO, Any, cast

from model.errors import DataError
from pipeline.artifacts.filesystem import open_filesystem, version
from pipeline.artifacts.paths import is_url

GZIPPED = (".gz", ".gzip")


def remote(location: str) -> tuple[Any, str] | None:
    """The file system and path of a URL; None for a local path. Raises ConfigError for a chained URL."""
    return open_filesystem(location) if is_url(location) else None


def is_file(location: str) -> bool:
    """True if a location is a file. Raises OSError if that cannot be told."""
    found = remote(location)
    return os.path.isfile(location) if found is None else bool(found[0].isfile(found[1]))


def is_folder(location: str) -> bool:
    """True if a location is a folder; on an object store, if some object's name continues its name."""
    found = remote(location)
    return os.path.isdir(location) if found is None else bool(found[0].isdir(found[1]))


def size_of(location: str) -> int:
    """Size of a file in bytes. Raises OSError."""
    found = remote(location)
    return os.stat(location).st_size if found is None else int(found[0].info(found[1])["size"])


def stamp_of(location: str) -> str:
    """A text that is another one once a file was written again. Raises OSError."""
    found = remote(location)
    if found is None:
        status = os.stat(location)
        return f"{status.st_size} {status.st_mtime_ns}"
    info = found[0].info(found[1])
    return f"{info['size']} {version(info)}"


def open_file(location: str) -> IO[bytes]:
    """A file, open for reading at any position, without decompression. Raises OSError."""
    found = remote(location)
    if found is None:
        return open(location, "rb")
    return cast(IO[bytes], found[0].open(found[1], "rb"))


def open_stream(location: str) -> IO[bytes]:
    """A file, open for reading from its start; gzipped ones are decompressed by their name. Raises OSError.

    Reading a gzipped file raises DataError where it is cut off or damaged.
    """
    stream = open_file(location)
    return cast(IO[bytes], _Gzip(stream, location)) if is_gzipped(location) else stream


class _Gzip(gzip.GzipFile):
    """A gzipped file whose damage is named."""

    def __init__(self, stream: IO[bytes], location: str) -> None:
        super().__init__(fileobj=stream)
        self._location = location

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        try:
            return super().read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{self._location} is no gzipped file, or is cut off or damaged ({error}); download it again"
            ) from error


def is_gzipped(location: str) -> bool:
    """True if a file's name says that it is gzipped."""
    return location.lower().endswith(GZIPPED)


def require_file(location: str, what: str = "annotation file") -> None:
    """Raise DataError if there is no such file."""
    if not is_file(location):
        raise DataError(f"{what} {location} does not exist; correct its location in the recipe")


def absolute(location: str, base: Path | None = None) -> str:
    """A location that does not depend on the current folder: a relative path starts from `base`. URLs stay."""
    if is_url(location):
        return location
    return str(((base or Path()) / Path(location).expanduser()).resolve())
