"""Digests of the names and sizes below a folder: a cheap fingerprint of millions of images."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.artifacts.filesystem import open_filesystem, version
from pipeline.artifacts.spec import digest


def listing(folder: Path, folders: dict[str, list[int]] | None = None) -> str:
    """Digest of the names below a folder and of the files' sizes, without opening the files. Raises OSError.

    Also of a single file. Every file is looked at: a folder's timestamps do not change when a file in it is overwritten
    in place. `folders` gets the stamps of all folders.
    """
    hasher = hashlib.sha256()
    if folder.is_file():
        return digest([folder.name, folder.stat().st_size])
    for entry in _entries(os.fsencode(folder), folders if folders is not None else {}):
        hasher.update(b"".join(part + b"\0" for part in entry))  # no name has a zero byte
    return hasher.hexdigest()


def listing_of_store(url: str) -> str:
    """Digest of the names, sizes and versions (ETags) of the objects below a URL. Raises OSError."""
    fs, root = open_filesystem(url)
    found = fs.find(root, detail=True)
    return digest(
        sorted(
            [str(path)[len(root) :], int(info["size"]), version(info) or str(info.get("mtime", ""))]
            for path, info in found.items()
        )
    )


def folder_stamp(root: Path, below: str) -> list[int] | None:
    """Times and inode of a folder, which change when a name in it does; None if it is gone."""
    try:
        status = os.stat(os.path.join(os.fsencode(root), os.fsencode(below)))
    except OSError:
        return None
    return [max(status.st_mtime_ns, status.st_ctime_ns), status.st_mtime_ns, status.st_ino]


def _entries(root: bytes, folders: dict[str, list[int]]) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Path, kind, and size or link target of each entry below a folder, in an order that is the same on every system.

    An unreadable entry has its own kind, so that the digest changes once it can be read. `folders` gets each folder's
    stamp, taken before it is listed.
    """
    # Depth first with a stack instead of recursion: folders may be nested deeper than Python's recursion limit. Sorted
    # by the bytes of the names, because os.scandir's order differs between file systems.
    real_root = os.path.realpath(root)
    waiting = [b""]
    while waiting:
        prefix = waiting.pop()
        stamp = folder_stamp(Path(os.fsdecode(root)), os.fsdecode(prefix))
        if stamp is not None:
            folders[os.fsdecode(prefix)] = stamp
        try:
            with os.scandir(os.path.join(root, prefix)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except PermissionError:
            if not prefix:
                raise
            yield prefix, b"unreadable", b""
            continue
        below = []
        for entry in entries:
            path = prefix + entry.name
            try:
                if entry.is_symlink():
                    yield path, *_link(entry.path, real_root)
                elif entry.is_dir(follow_symlinks=False):
                    below.append(path + b"/")
                elif entry.is_file(follow_symlinks=False):
                    yield path, b"file", b"%d" % entry.stat(follow_symlinks=False).st_size
                else:
                    yield path, b"special", b""
            except PermissionError:
                yield path, b"unreadable", b""
        waiting += reversed(below)


def _link(path: bytes, real_root: bytes) -> tuple[bytes, bytes]:
    """Kind and target of a link. As when images are read, only links below the root are followed.

    The target is relative to the root, so that moving the whole folder changes nothing.
    """
    target = os.path.realpath(path)
    if os.path.commonpath([real_root, target]) != real_root:
        return b"link out", b""
    return b"link", os.path.relpath(target, real_root)
