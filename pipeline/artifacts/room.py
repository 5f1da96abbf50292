"""Disks that are full or read-only: checked before a step starts, and told as one message when a write fails.

The message has the path, the room that is there and, where it is known, the room that is needed, and a remedy.
"""

import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from model.errors import StepError
from pipeline.artifacts.paths import is_url

MEBIBYTE = 1 << 20
LEAST = 64 * MEBIBYTE
"""Room that the store and the scratch folder must have before a step starts."""
INODES = 200
"""Files that must still fit on their disks."""
PROBE = 4096

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""errno values of a disk or quota without room."""
REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EFBIG})
"""errno values of a place that cannot be written: read-only, without rights, below a file, or with a limit of size."""
TEXTS = {
    errno.ENOSPC: re.compile(r"No space left on device|\(os error 28\)|\[errno 28\]", re.IGNORECASE),
    errno.EDQUOT: re.compile(r"Disk quota exceeded|\(os error 122\)|\[errno 122\]", re.IGNORECASE),
    errno.EROFS: re.compile(r"Read-only file system|\(os error 30\)|\[errno 30\]", re.IGNORECASE),
}
"""Errors of a disk in the texts of libraries that raise no OSError: safetensors, torch, pyarrow, and Ray's workers."""
DRAFT = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""The end of the name of a file that is being written."""


def disk_fault(error: BaseException | None) -> OSError | None:
    """The error of a disk that another error, or our message for it, was raised for; None if there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in FULL | {errno.EROFS}:
            return error
        cause = getattr(error, "cause", None)  # of a Ray task
        error = error.__cause__ or (cause if isinstance(cause, BaseException) else None) or _context(error)
    return None


def _context(error: BaseException) -> BaseException | None:
    return None if error.__suppress_context__ else error.__context__


def fault_in_text(text: str) -> OSError | None:
    """The error of a disk that a text tells of, without a path; None if it tells of none."""
    found = [number for number, pattern in TEXTS.items() if pattern.search(text)]
    return OSError(found[0], os.strerror(found[0])) if found else None


def explained(error: OSError, places: Iterable[str] = ()) -> str:
    """An OSError as one message: path, reason, room and remedy.

    Args:
        error: the error.
        places: folders that may have been written, for an error that names no path.
    """
    path = _path_of(error)
    reason = error.strerror or str(error)
    if error.errno in FULL:
        full = [path] if path else sorted(places, key=lambda place: (_free(place) or (0, 0))[0])[:1]
        there = f"{full[0]} ({room_text(full[0])})" if full else "a file or the output"
        return (
            f"the disk is full ({reason}): {there} cannot be written; free some space, or move the store "
            "(AGEVLM_STORE) or the home folder (AGEVLM_HOME) to a larger disk, and run again: what is committed is kept"
        )
    if error.errno in REFUSED and path:
        remedy = "give this user the right to use it, or set AGEVLM_STORE or AGEVLM_HOME to another place"
        return f"{path}: {reason}; {remedy}"
    return f"{path or 'a file or connection'}: {reason}; correct that, and run again"


def _path_of(error: OSError) -> str:
    name = error.filename2 or error.filename
    if name is None or isinstance(name, int):
        return ""
    return DRAFT.sub("", os.fsencode(name).decode("utf-8", "backslashreplace"))


def check_room(root: str, scratch: str, needed: int | None = None) -> None:
    """Raise StepError unless the store and the scratch folder can be written and have room.

    Args:
        root: of the store; an object store is not checked.
        scratch: the local folder for temporary files.
        needed: bytes that the step is expected to write to the store; LEAST at least.
    """
    wanted = {scratch: LEAST}
    if not is_url(root):
        wanted[root] = max(LEAST, needed or 0)
    for place, size in wanted.items():
        name = "the store" if place == root else "the scratch folder"
        variable = "AGEVLM_STORE" if place == root else "AGEVLM_HOME"
        remedy = f"make room there, or set {variable} to a folder on another disk; what is committed is kept"
        try:
            _probe(Path(place))
            free, inodes = _free(place) or (size, INODES)
        except OSError as error:
            raise StepError(
                f"{name} {place} cannot be written ({error.strerror or error}); {room_text(place)}; {remedy}"
            ) from error
        if free < size:
            raise StepError(f"{name} {place} needs {size_words(size)} for this step, but {room_text(place)}; {remedy}")
        if inodes < INODES:
            raise StepError(f"{name} {place} needs room for {INODES} files, but has only {inodes} inodes; {remedy}")


def _probe(folder: Path) -> None:
    """Write and remove a small file: rights do not tell of a quota, or of a file system that became read-only."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder, prefix="agevlm-probe-") as file:
        file.write(bytes(PROBE))
        file.flush()
        os.fsync(file.fileno())


def room_text(path: str) -> str:
    """'its disk has 1.2 GiB free', of the nearest folder that exists."""
    free = _free(path)
    return "the room on its disk is not known" if free is None else f"its disk has {size_words(free[0])} free"


def _free(path: str) -> tuple[int, int] | None:
    """Free bytes and inodes on the disk of a path, which may not exist; None if that is not known."""
    for folder in _upwards(Path(path).absolute()):
        try:
            status = os.statvfs(folder)
        except OSError:
            continue
        # Some file systems count no inodes.
        return status.f_frsize * status.f_bavail, status.f_favail if status.f_files else INODES
    return None


def _upwards(path: Path) -> Iterator[Path]:
    yield path
    yield from path.parents


def size_words(count: int) -> str:
    """A number of bytes as '1.2 GiB' or '3.4 MiB'."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / MEBIBYTE:.1f} MiB"
