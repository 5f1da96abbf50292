"""Files for their owner only: the mask of new files, folders that are checked, and modes that are mended."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.local.stack_file import StackError

UMASK = "AGEVLM_UMASK"
PRIVATE = 0o077
"""Permissions that new files do not get: those of the group and of others."""


def read_umask(text: str | None) -> int:
    """The mask of new files from `$AGEVLM_UMASK`, in octal; PRIVATE if it is not set.

    Raises StackError if it is no mask, or if it takes a permission from the files' owner.
    """
    if not text:
        return PRIVATE
    mask = int(text, 8) if re.fullmatch("[0-7]{1,4}", text) else -1
    if not 0 <= mask <= PRIVATE:
        raise StackError(
            f"{UMASK} = '{text}' is not an octal mask from 000 to 077: 077 keeps new files for their owner, 027 lets "
            "the group of a shared store read them, 007 lets it write as well"
        )
    return mask


@contextmanager
def new_files(umask: int) -> Iterator[None]:
    """Files that this process makes in this block get the mode 0666, folders 0777, without the bits of `umask`."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def own_folder(folder: Path, remedy: str) -> None:
    """Create a folder for its owner only, or take those permissions from an existing one.

    Raises StackError with the remedy if it cannot be created, if it is a link, if it belongs to another user, or if it
    is a folder for all users, as /tmp is.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise StackError(f"the folder {folder} cannot be created ({error}); {remedy}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StackError(f"{folder} belongs to another user or is a link; {remedy}")
    if found.st_mode & stat.S_ISVTX:
        raise StackError(f"{folder} is a folder for all users (mode {found.st_mode & 0o7777:04o}); {remedy}")
    if stat.S_IMODE(found.st_mode) & PRIVATE:
        folder.chmod(0o700)


def mend(folder: Path, umask: int) -> int:
    """Take the permissions of `umask` from everything in a folder. Returns the number of modes that were changed.

    Links are not followed. What belongs to another user stays as it is, and what vanishes meanwhile is left out.
    """
    changed, waiting = 0, [os.fspath(folder)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid():
                    continue
                if stat.S_IMODE(found.st_mode) & umask:
                    os.chmod(entry.path, stat.S_IMODE(found.st_mode) & ~umask)
                    changed += 1
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(found.st_mode):
                waiting.append(entry.path)
    return changed
