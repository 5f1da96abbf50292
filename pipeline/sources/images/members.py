"""The members of an archive: listed one by one without extracting them, or read in one pass if it is compressed."""

import bz2
import gzip
import io
import lzma
import posixpath
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, Self, cast

from model.errors import DataError
from model.images import MAX_BYTES
from pipeline.sources.images.archives import Archive
from pipeline.sources.images.references import tidy
from pipeline.sources.lines import GZIP

OPENERS: dict[str, Callable[[Any], IO[bytes]]] = {
    "gz": lambda stream: cast(IO[bytes], gzip.GzipFile(fileobj=stream)),
    "bz2": lambda stream: cast(IO[bytes], bz2.BZ2File(stream)),
    "xz": lambda stream: cast(IO[bytes], lzma.LZMAFile(stream)),  # noqa: SIM115
}
"""End of a compressed archive's name -> function that opens it."""
BLOCK = 512  # bytes of a tar header
DAMAGE = (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError)
"""The errors of tarfile for the headers of a damaged archive."""
ENDS = 8  # readings beyond the end of a stream
AFTER = 1 << 20  # bytes after the end marker that are looked at
MAX_EXTENSION = 1 << 20  # bytes
EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
"""Types of what comes before a header and changes it."""
MAX_LINKS = 40  # that lead to each other, as on Linux


class Member(NamedTuple):
    """One regular file of an archive."""

    name: str
    offset: int
    """Of its first byte in the archive."""
    size: int


@dataclass
class Links:
    """Other names of an archive's members: its hard and symbolic links. Those to folders are not followed."""

    _targets: dict[str, str] = field(default_factory=dict)

    def add(self, info: tarfile.TarInfo) -> None:
        """Add a link. A target with '/' at its start is below the archive's root, as a member's name is."""
        base = posixpath.dirname(info.name) if info.issym() else ""
        self._targets[member_path(info.name)] = member_path(posixpath.normpath(posixpath.join(base, info.linkname)))

    def names(self) -> dict[str, list[str]]:
        """Path of a member -> the names that lead to it, also over other links."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, target in self._targets.items():
            for _ in range(MAX_LINKS):
                if target not in self._targets:
                    found[target].append(name)
                    break
                target = self._targets[target]
        return found


def member_path(name: str) -> str:
    """A member's name as a path from the archive's root."""
    return tidy(name.lstrip("/"))


@dataclass
class Listing:
    """The members of an archive that is read in place, while they are listed; `damage` is known at the end."""

    archive: Archive
    damage: str = ""
    """The archive's fault: it is cut off, or damaged from some byte on. Members before that are good."""
    links: Links = field(default_factory=Links)

    def __iter__(self) -> Iterator[Member]:
        """Regular files. A member that is cut off is listed with its full size. Raises DataError if it is no tar."""
        seen = False
        with self.archive.open() as raw:
            stream = io.BufferedReader(raw, 64 * BLOCK)
            try:
                with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as tar:
                    for info in _headers(tar):
                        seen = True
                        if info.islnk() or info.issym():
                            self.links.add(info)
                        elif info.isreg() and not info.issparse():
                            yield Member(info.name, info.offset_data, info.size)
                            if info.offset_data + info.size > raw.length:
                                self.damage = f"it is cut off within {info.name!r}: {raw.length} bytes are there"
                                return
                    self._check_end(stream, tar.offset, raw.length)
            except DAMAGE as error:
                if not seen:
                    stream.seek(0)
                    if stream.read(len(GZIP)) == GZIP:
                        raise DataError(f"{self.archive.parts[0]} is gzipped; name it .tar.gz") from error
                    raise DataError(
                        f"{self.archive.parts[0]} is no tar archive ({error}); download it again"
                    ) from error
                self.damage = f"it is cut off or damaged: {raw.length} bytes are there ({error})"

    def _check_end(self, stream: IO[bytes], offset: int, length: int) -> None:
        """tarfile takes a damaged or cut header for the end. The real end is a block of zeros."""
        stream.seek(offset)
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            self.damage = f"it is cut off after byte {min(offset, length)}: its end marker is missing"
        elif block.strip(b"\0"):
            self.damage = f"it is damaged from byte {offset} on"
        elif stream.read(AFTER).strip(b"\0"):
            self.damage = f"it goes on after its end marker at byte {offset}; what follows is not read"


class _Header(tarfile.TarInfo):
    """A header. A long name or an extension is read into memory as a whole, so it must not be large."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As tarfile's. Raises one of DAMAGE for an extension of more than MAX_EXTENSION bytes."""
        info = super().frombuf(buf, encoding, errors)
        if info.type in EXTENSIONS and info.size > MAX_EXTENSION:
            raise tarfile.ReadError(f"an extension of a header has {info.size} bytes")
        return info


def _headers(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The headers of an archive. Raises one of DAMAGE."""
    while (info := tar.next()) is not None:
        if info.size < 0 or tar.offset <= info.offset:  # it would be read again, for ever
            raise tarfile.ReadError(f"{info.name!r} has less than no bytes")
        tar.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
        yield info


@dataclass
class Streamed:
    """The members of a compressed archive with their bytes, in one pass; `damage` is known at the end."""

    archive: Archive
    damage: str = ""
    links: Links = field(default_factory=Links)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each regular file. One of more than MAX_BYTES is cut to MAX_BYTES + 1. Raises DataError."""
        kind = self.archive.name.lower().rpartition(".")[2]
        seen = False
        with self.archive.open() as raw:
            stream = _LastBlock(OPENERS["gz" if kind == "tgz" else kind](io.BufferedReader(raw, 1 << 20)))
            try:
                with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", bufsize=BLOCK, tarinfo=_Header) as tar:
                    for info in _headers(tar):
                        seen = True
                        if info.islnk() or info.issym():
                            self.links.add(info)
                        content = tar.extractfile(info) if info.isreg() else None
                        if content is not None:
                            yield info.name, content.read(min(info.size, MAX_BYTES + 1))
                if len(stream.block) < BLOCK or stream.block.strip(b"\0"):
                    self.damage = "it is cut off or damaged: its end marker is missing"
                elif stream.read(AFTER).strip(b"\0"):
                    self.damage = "it goes on after its end marker; what follows is not read"
            except (*DAMAGE, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
                if not seen:
                    raise DataError(
                        f"{self.archive.parts[0]} is no compressed tar archive ({error}); download it again"
                    ) from error
                self.damage = f"it is cut off or damaged: {error}"


class _LastBlock:
    """A stream that keeps what was read last. tarfile takes a damaged header for the end of the archive."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.block = b""
        self._empty = 0

    def read(self, size: int) -> bytes:
        """The next bytes. Raises EOFError beyond the end, where tarfile would go on to any size in a header."""
        data = self._stream.read(size)
        self.block = data
        self._empty = 0 if data else self._empty + 1
        if self._empty > ENDS:
            raise EOFError("it ends within a member")
        return data
