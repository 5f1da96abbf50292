"""Atomic writes of local files and folders: complete or absent, also if a process is killed or two write one name.

A file is written under a temporary name in the same folder, synced to disk (fsync), and then renamed: by `os.replace`
where an older file may be replaced, by `os.link` where an existing file must be kept. So a power loss leaves no empty
file.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})
"""errno values of file systems that cannot fsync a folder (some network ones); they are ignored."""


def partial_path(path: Path) -> Path:
    """A unique temporary name in the folder of `path`, for a file that is not complete yet."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")


@contextmanager
def write_whole(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose bytes replace the file `path` when the block ends without an error. Creates a missing folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with naming(path):
            with open(partial, "xb") as stream:
                yield stream
                sync_file(stream)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Give an OSError of the block the path of the file, if it has none: a full disk is found when bytes are written
    to an open file, and that error names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a small UTF-8 text file."""
    with write_whole(path) as stream:
        stream.write(text.encode("utf-8"))


def link_if_absent(source: Path, path: Path) -> bool:
    """Hard-link a complete file of the same file system as `path`. Returns False if `path` exists already."""
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    sync_folder(path.parent)
    return True


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `target` when the block ends without an error, and else removed.

    If another process made `target` meanwhile, its folder is kept: both must have the same content. Raises OSError if
    the rename fails, or if `target` is not a folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex}.partial"
    partial.mkdir()
    try:
        yield partial
        try:
            os.rename(partial, target)  # replaces an empty folder, but no file and no folder with files in it
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync_file(stream: IO[bytes]) -> None:
    """Flush and fsync an open file. Raises OSError if that fails: a power loss could then lose the bytes."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that a power loss does not lose the names in it. Raises OSError if that fails."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_folders(folder: Path, above: int) -> None:
    """Fsync `folder`, all folders below it, and its `above` nearest parents."""
    for below, _, _ in os.walk(folder):
        sync_folder(Path(below))
    for _ in range(above):
        folder = folder.parent
        sync_folder(folder)
