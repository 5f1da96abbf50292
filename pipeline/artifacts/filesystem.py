"""The file system of a store (local disk or object store), with the two atomic writes that a commit needs.

`create` writes a file only if its name is free (local disk: temporary file, fsync, hard link; object store: a
conditional request). `replace` overwrites. Failed requests to an object store are retried.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from model.errors import ConfigError
from pipeline.artifacts.atomic import link_if_absent, naming, partial_path, sync_file, sync_folder
from pipeline.artifacts.paths import is_url

S3_ATTEMPTS = 16
"""Attempts of one request. s3fs waits 0.1 s, then 1.7 times as long each time, at most 15 s: two minutes in all."""
S3_CONFLICT = "ConditionalRequestConflict"
"""S3's error code for two conditional requests for one key at the same time: the second is to be made again."""


def open_filesystem(root: str) -> tuple[Any, str]:
    """The fsspec file system of a store's root, and the root's path in it. Raises ConfigError for a chained URL."""
    if not is_url(root):
        return LocalFileSystem(auto_mkdir=True), os.path.abspath(root)
    if "::" in root:
        raise ConfigError(f"the store's root {root!r} has '::', which chains file systems in fsspec; give one without")
    # Other machines write to the same store, so listings are never cached.
    fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False)
    if "s3" in fs.protocol:
        from s3fs import core

        core.set_custom_error_handler(is_transient)
        fs.retries = S3_ATTEMPTS
    return fs, str(path)


def is_transient(error: BaseException) -> bool:
    """True if an S3 request that failed with this error may succeed when it is made again."""
    from botocore.exceptions import ClientError, ConnectionError

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return bool(status >= 500) or error.response.get("Error", {}).get("Code") == S3_CONFLICT
    return isinstance(error, ConnectionError)


def is_local(fs: Any) -> bool:
    """True if a file system is this machine's disk."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


@contextmanager
def draft(fs: Any, path: str) -> Iterator[Path]:
    """A local path to write the bytes of `path` to: in the same folder on a local disk, else in a temporary folder."""
    if is_local(fs):
        partial = partial_path(Path(path))
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            with naming(path):
                yield partial
        finally:
            partial.unlink(missing_ok=True)
    else:
        with tempfile.TemporaryDirectory(prefix="agevlm-") as folder:
            yield Path(folder) / "draft"


def create(fs: Any, path: str, source: Path) -> bool:
    """Write the file `path` from a complete draft, only if absent. Returns True if this call wrote it."""
    if is_local(fs):
        _sync(source)
        return link_if_absent(source, Path(path))
    try:
        try:
            fs.put_file(str(source), path, mode="create")
        except FileNotFoundError:
            # A large file is uploaded in parts. If another writer completes the same name at the same time, S3 ends
            # this upload, so that the repeated request finds none: upload again.
            fs.put_file(str(source), path, mode="create")
    except OSError as error:
        if not _name_taken(error):
            raise
        return False
    return True


def replace(fs: Any, path: str, source: Path) -> None:
    """Write the file `path` from a complete draft, over an existing file if there is one."""
    if is_local(fs):
        _sync(source)
        partial = partial_path(Path(path))
        os.link(source, partial)  # the draft itself stays where it is, in case it is placed again
        os.replace(partial, path)
        sync_folder(Path(path).parent)
    else:
        fs.put_file(str(source), path)


def create_bytes(fs: Any, path: str, content: bytes) -> bool:
    """The same as `create`, for content in memory."""
    with draft(fs, path) as source:
        source.write_bytes(content)
        return create(fs, path, source)


def expected_version(fs: Any, source: Path) -> str | None:
    """The version (ETag) that S3 gives a file of these bytes when s3fs uploads it; None for other file systems.

    It is the MD5 of the bytes, or of the parts' MD5s for a multipart upload. Buckets with customer-managed keys
    (SSE-KMS) give other ETags: then none matches, and callers compare the bytes instead.
    """
    if is_local(fs) or "s3" not in fs.protocol:
        return None
    from s3fs.core import calculate_chunksize

    size = source.stat().st_size
    chunk = calculate_chunksize(size)
    with open(source, "rb") as stream:
        if size < 2 * chunk:
            return hashlib.file_digest(stream, "md5").hexdigest()
        parts = [hashlib.md5(piece, usedforsecurity=False).digest() for piece in iter(lambda: stream.read(chunk), b"")]
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def version(info: dict[str, Any]) -> str | None:
    """The object store's version (ETag) of a file, from its entry in a listing; None on a local disk."""
    return str(info["ETag"]).strip('"') if "ETag" in info else None


def read_each(fs: Any, paths: list[str]) -> dict[str, bytes]:
    """The content of small files, read at the same time on an object store. Files that do not exist are left out."""
    # Not `fs.cat`: it takes * ? [ in a path for a pattern.
    found = dict(zip(paths, fs.cat_ranges(paths, None, None, on_error="return"), strict=True)) if paths else {}
    for content in found.values():
        if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
            raise content
    return {path: content for path, content in found.items() if isinstance(content, bytes)}


def files(fs: Any, folder: str, maxdepth: int | None = None) -> dict[str, dict[str, Any]]:
    """Every file below a folder, with its entry in a listing; none if there is no such folder.

    Raises OSError if a folder cannot be read. `fs.find` leaves such a folder out on a local disk, as if it were empty.
    Links are entries of their own, and are not followed.
    """
    if not is_local(fs):
        return {str(path): info for path, info in fs.find(folder, maxdepth=maxdepth, detail=True).items()}
    found: dict[str, dict[str, Any]] = {}
    waiting = [(folder, 1)]
    while waiting:
        here, depth = waiting.pop()
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(here) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # it was removed meanwhile
                    if not entry.is_dir(follow_symlinks=False):
                        about = entry.stat(follow_symlinks=False)
                        found[entry.path] = {"type": "file", "size": about.st_size, "mtime": about.st_mtime}
                    elif maxdepth is None or depth < maxdepth:
                        waiting.append((entry.path, depth + 1))
    return found


def folders(fs: Any, folder: str) -> list[str]:
    """The names of the folders in a folder, and of links to folders, sorted. Raises OSError if it cannot be read."""
    try:
        if is_local(fs):
            with os.scandir(folder) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        found = fs.ls(folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(str(one["name"]).rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory")


def changed(info: dict[str, Any]) -> float:
    """The time of a file's last change, from its entry in a listing; seconds since 1970."""
    value = info.get("LastModified", info.get("mtime", info.get("created", 0.0)))
    return value.timestamp() if isinstance(value, datetime) else float(value or 0.0)


def remove_tree(fs: Any, folder: str, between: Callable[[], None] = lambda: None) -> None:
    """Remove a folder with all its files, if it exists; `between` is called after each file."""
    for path in files(fs, folder):  # not `fs.rm`: it takes * ? [ in a path for a pattern
        remove(fs, path)
        between()
    if is_local(fs):
        with suppress(FileNotFoundError):  # another process may remove the same folder
            shutil.rmtree(folder)


def remove(fs: Any, path: str) -> None:
    """Remove a file if it exists."""
    try:
        fs.rm_file(path)
    except FileNotFoundError:
        return


def _sync(source: Path) -> None:
    with open(source, "rb") as stream:
        sync_file(stream)


def _name_taken(error: OSError) -> bool:
    """True if a conditional request was refused because the name exists. s3fs reports S3's answer 412 as EINVAL."""
    if isinstance(error, FileExistsError):
        return True
    cause = error.__cause__
    response = getattr(cause, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("PreconditionFailed", "412")
