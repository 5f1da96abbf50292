"""A store on the local disk, as faulty://PATH, that is full or fails while a file says so.

It behaves as an object store: a file is created whole and only if absent. The file named by AGEVLM_TEST_FAULTS holds
'full', or 'down' and a time (seconds since 1970) until which every request fails; all processes read it.
"""

import errno
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

FAULTS = "AGEVLM_TEST_FAULTS"
SCHEME = "faulty://"


class FaultyFileSystem(LocalFileSystem):  # type: ignore[misc]
    """The local disk with faults."""

    protocol = "faulty"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        text = os.fspath(path)
        return str(LocalFileSystem._strip_protocol(text.removeprefix(SCHEME)))

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path."""
        return SCHEME + self._strip_protocol(name)

    def put_file(self, lpath: str, rpath: str, callback: Any = None, mode: str = "overwrite", **options: Any) -> None:
        """Upload a file; with mode 'create' only if there is none."""
        _fault(writes=True)
        target = Path(self._strip_protocol(rpath))
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{uuid.uuid4().hex}")
        shutil.copyfile(lpath, partial)
        try:
            os.link(partial, target) if mode == "create" else os.replace(partial, target)
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """Write a small file."""
        _fault(writes=True)
        super().pipe_file(path, value, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> Any:
        """Read a file."""
        _fault()
        return super().cat_file(path, start, end, **options)

    def find(self, path: str, *arguments: Any, **options: Any) -> Any:
        """List a folder."""
        _fault()
        return super().find(path, *arguments, **options)

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        _fault()
        super().rm_file(path)


def register() -> None:
    """Make faulty:// known to fsspec in this process."""
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


def fail(faults: Path, text: str) -> None:
    """Set the fault: 'full', 'down TIME' or '' for none."""
    partial = faults.with_suffix(".new")
    partial.write_text(text)
    os.replace(partial, faults)


def _fault(writes: bool = False) -> None:
    """Raise the error of the fault that lasts now."""
    name = os.environ.get(FAULTS)
    kind, *until = (Path(name).read_text().split() if name and os.path.exists(name) else []) or ["none"]
    if kind == "full" and writes:
        raise OSError(errno.ENOSPC, "No space left on device")
    if kind == "down" and time.time() < float(until[0]):
        raise OSError(errno.EIO, "the store does not answer")
