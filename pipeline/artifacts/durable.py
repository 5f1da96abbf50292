"""Putting local files on the disk, so that what a manifest names is still there after a loss of power."""

import errno
import os
from typing import IO

NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})
"""What file systems answer that do not know how to sync a folder (some network ones); there is nothing to do then."""


def sync_file(stream: IO[bytes]) -> None:
    """Put an open file's bytes on the disk. Raises OSError if that fails: the bytes are not safe then."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: str) -> None:
    """Put the names in a folder on the disk. Raises OSError if that fails."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_folders(folder: str, above: int) -> None:
    """Put the names in `folder`, in all folders below it and in the `above` folders over it on the disk."""
    for below, _, _ in os.walk(folder):
        sync_folder(below)
    for _ in range(above):
        folder = os.path.dirname(folder)
        sync_folder(folder)
