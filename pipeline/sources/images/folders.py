"""Images as files below a folder, on disk or on an object store. Symbolic links must not lead out of it."""

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from model.errors import DataError, ImageError
from model.images import MAX_BYTES
from pipeline.sources.files import remote
from pipeline.sources.images.references import check_safe, folded, only_like
from pipeline.sources.records import printable

OUTAGES = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENOMEM, errno.EMFILE}
)
"""errno values of a file system that does not answer. The image may be there, so they end the step."""


class LocalFolder:
    """A folder on this machine's disks."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._root = os.path.realpath(location)
        self._names = lru_cache(maxsize=64)(lambda folder: Names(self._listed(folder)))

    def find(self, path: str) -> str:
        """The path of a file below the folder, checked. Raises ImageError ('path_escape', 'missing_image', ...)."""
        check_safe(path)
        self._check(path)
        return path

    def find_similar(self, path: str) -> tuple[str, tuple[str, ...]] | None:
        """The only file whose path differs in case or Unicode form, and the rules; None if there is none.

        Raises ImageError as `find`.
        """
        found = similar(path, self._names)
        if found is not None:
            self._check(found[0])
        return found

    def _check(self, path: str) -> None:
        real = os.path.realpath(os.path.join(self._root, path))
        if os.path.commonpath([self._root, real]) != self._root:
            raise ImageError("path_escape", f"image {path!r} is a link out of the image folder")
        try:
            status = os.stat(real)
        except OSError as error:
            _raise_outage(error, self.location)
            raise ImageError("missing_image", f"image {path!r} is not there") from error
        if not stat.S_ISREG(status.st_mode):  # opening a pipe or device would hang
            raise ImageError("not_a_file", f"image {path!r} is not a regular file")

    def _listed(self, folder: str) -> list[str]:
        real = os.path.realpath(os.path.join(self._root, folder))
        if os.path.commonpath([self._root, real]) != self._root:
            return []
        try:
            return [name for name in os.listdir(real) if printable(name) == name]
        except OSError as error:
            _raise_outage(error, self.location)
            return []

    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises ImageError as `find`, or for reason 'too_large' or 'unreadable'."""
        check_safe(path)
        self._check(path)
        real = os.path.realpath(os.path.join(self._root, path))
        try:
            with open(real, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size > MAX_BYTES:
                    raise ImageError("too_large", f"image {path!r} has {size} bytes, more than {MAX_BYTES}")
                return stream.read()
        except OSError as error:
            _raise_outage(error, self.location)
            raise ImageError("unreadable", f"image {path!r}: {error.strerror}") from error

    def check_there(self) -> None:
        """Raise DataError if the folder is gone: then no image in it is known to be missing."""
        if not os.path.isdir(self._root):
            raise DataError(f"image folder {self.location} is gone; mount it again, and run again")


class RemoteFolder:
    """A prefix of an object store. Its errors other than 'not found' end the step, after retries."""

    def __init__(self, location: str) -> None:
        self.location = location
        found = remote(location)
        assert found is not None
        self._fs, self._root = found
        self._names = lru_cache(maxsize=64)(lambda folder: Names(self._listed(folder)))

    def find(self, path: str) -> str:
        """As `LocalFolder.find`."""
        check_safe(path)
        if self._info(path) is None:
            raise ImageError("missing_image", f"image {path!r} is not there")
        return path

    def find_similar(self, path: str) -> tuple[str, tuple[str, ...]] | None:
        """As `LocalFolder.find_similar`."""
        found = similar(path, self._names)
        return None if found is None or self._info(found[0]) is None else found

    def _info(self, path: str) -> dict[str, Any] | None:
        try:
            info: dict[str, Any] = self._fs.info(f"{self._root}/{path}")
        except FileNotFoundError:
            return None
        return info if info["type"] == "file" else None

    def _listed(self, folder: str) -> list[str]:
        try:
            found = self._fs.ls(f"{self._root}/{folder}".rstrip("/"), detail=False)
        except FileNotFoundError:
            return []
        return [posixpath.basename(name.rstrip("/")) for name in found]

    def read(self, path: str) -> bytes:
        """As `LocalFolder.read`."""
        check_safe(path)
        info = self._info(path)
        if info is None:
            raise ImageError("missing_image", f"image {path!r} is not there")
        if info["size"] > MAX_BYTES:
            raise ImageError("too_large", f"image {path!r} has {info['size']} bytes, more than {MAX_BYTES}")
        content: bytes = self._fs.cat_file(f"{self._root}/{path}")
        return content

    def check_there(self) -> None:
        """An object store that does not answer has raised an error before."""


class Names:
    """The names in a folder, found also by Unicode form and case in a time that does not grow with the folder."""

    def __init__(self, names: Iterable[str]) -> None:
        self._like: dict[str, list[str]] = {}
        for name in names:
            self._like.setdefault(folded(name), []).append(name)

    def find(self, part: str) -> tuple[str, str]:
        """The name that is equal, or the only one that is like this, and the rule; '' if there is none."""
        like = self._like.get(folded(part), [])
        if part in like:
            return part, ""
        return only_like(part, like) or ("", "")


def similar(path: str, names: Callable[[str], Names]) -> tuple[str, tuple[str, ...]] | None:
    """The one path that differs from this one in Unicode form or case only, and the rules; None if there is none.

    names: gives the names in a folder.
    """
    found, rules = "", set[str]()
    for part in path.split("/"):
        name, rule = names(found).find(part)
        if not name:
            return None
        rules.update({rule} - {""})
        found = f"{found}/{name}" if found else name
    return found, tuple(sorted(rules))


def _raise_outage(error: OSError, location: str) -> None:
    if error.errno in OUTAGES:
        raise DataError(f"the images in {location} cannot be read now ({error.strerror}); run again") from error


def open_folder(location: str) -> LocalFolder | RemoteFolder:
    """A folder of images by path or URL."""
    return LocalFolder(location) if remote(location) is None else RemoteFolder(location)
