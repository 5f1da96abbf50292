"""Archives of images: found by their names, with their parts."""

import io
import os
import posixpath
import re
import string
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO

from model.errors import DataError
from pipeline.sources.files import is_file, open_file, remote, size_of

NAME = re.compile(
    r"(?P<name>.+\.(tar\.(gz|bz2|xz)|tgz|tar))"
    r"([._-]?(part)?[._-]?(?P<part>\d+|(?!gz|xz|bz|lz|br|md)[a-z]{2}))?",
    re.IGNORECASE | re.DOTALL,
)
"""An archive's name, with that of a part: '_part1', '.part-aa', or the 'aa' that `split` adds."""
LETTERS = string.ascii_lowercase


@dataclass(frozen=True)
class Archive:
    """One archive, in one file or several parts. Can be sent to workers."""

    name: str
    """Its name without that of a part: 'coco.tar'."""
    parts: tuple[str, ...]
    """Paths or URLs of its files, in order."""
    column: str = ""
    """Of a Parquet file: the column with the images."""

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each part. Raises OSError."""
        return tuple(size_of(part) for part in self.parts)

    @property
    def in_place(self) -> bool:
        """True if its members can be read by their offsets."""
        return self.name.lower().endswith(".tar")

    @property
    def stem(self) -> str:
        """Its name without suffixes: 'coco'."""
        return posixpath.basename(self.name).split(".tar")[0].split(".tgz")[0]

    def open(self) -> "Joined":
        """Its bytes as one file, open for reading at any position. Raises OSError."""
        return Joined(self.parts)


class Joined(io.RawIOBase):
    """Several files as one, read only. A file is opened when it is read from first."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = tuple(parts)
        self._starts = [0]
        for part in self._parts:
            self._starts.append(self._starts[-1] + size_of(part))
        self._streams: dict[int, IO[bytes]] = {}
        self._position = 0

    @property
    def length(self) -> int:
        """Bytes of all parts."""
        return self._starts[-1]

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, also beyond the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into a buffer, at most to the end of a part. Returns the number of bytes."""
        if self._position >= self.length:
            return 0
        part = next(n for n in range(len(self._parts)) if self._position < self._starts[n + 1])
        if part not in self._streams:
            self._streams[part] = open_file(self._parts[part])
        stream = self._streams[part]
        stream.seek(self._position - self._starts[part])
        data = stream.read(min(len(buffer), self._starts[part + 1] - self._position))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Close the files that were opened."""
        for stream in self._streams.values():
            stream.close()
        super().close()


def find_archives(files: Sequence[tuple[str, str]]) -> list[Archive]:
    """The archives among some files, given as (name, path or URL), by name. Raises DataError if a part is missing."""
    parts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, path in files:
        found = NAME.fullmatch(posixpath.basename(name))
        if found:
            folder = posixpath.dirname(name)
            parts[posixpath.join(folder, found["name"])].append(((found["part"] or "").lower(), path))
    return [Archive(name, tuple(_in_order(name, found))) for name, found in sorted(parts.items())]


def _in_order(name: str, parts: list[tuple[str, str]]) -> list[str]:
    if len(parts) == 1 and not parts[0][0]:
        return [parts[0][1]]
    names = sorted(part for part, _ in parts)
    if not names[0]:
        raise DataError(f"there is {name} and also its parts {', '.join(names[1:])}; remove the one or the others")
    if len({name.isdigit() for name in names}) > 1:
        raise DataError(f"the parts of {name} are counted in two ways: {', '.join(names)}; remove those of one way")
    numbered = {_part_number(part): part for part in names}
    if len(numbered) < len(names):
        raise DataError(f"a part of {name} is there twice: {', '.join(names)}; remove one of them")
    first = min(min(numbered), 1) if names[0].isdigit() else 0  # numbers begin with 0 or 1
    missing = sorted(set(range(first, max(numbered) + 1)) - numbered.keys())
    if missing:
        part = str(missing[0]) if names[0].isdigit() else "".join(LETTERS[n] for n in divmod(missing[0], len(LETTERS)))
        raise DataError(f"part {part} of {name} is missing (there are {len(names)} parts); download it")
    return [path for _, path in sorted(parts, key=lambda part: _part_number(part[0]))]


def _part_number(part: str) -> int:
    """'7' or '07' is 7; 'aa' is 0, 'ab' is 1."""
    return int(part) if part.isdigit() else LETTERS.index(part[0]) * len(LETTERS) + LETTERS.index(part[1])


def archives_in(location: str) -> list[Archive]:
    """The archives directly in a folder, or the one that the location itself is. Raises DataError."""
    return find_archives(list(_archive_files(location)))


def _archive_files(location: str) -> Iterator[tuple[str, str]]:
    """Name and path of the files that are archives by name."""
    found = remote(location)
    if is_file(location):
        name = posixpath.basename(location)
        found_name = NAME.fullmatch(name)
        if found_name is None:
            raise DataError(
                f"images: {location} is a file, but no .tar or .tar.gz archive; give a folder or an archive"
            )
        if found_name["part"]:
            raise DataError(f"images: {location} is one part of an archive; give the folder that holds all parts")
        yield name, location
    elif found is None:
        with os.scandir(location) as entries:
            yield from sorted((e.name, e.path) for e in entries if NAME.fullmatch(e.name) and e.is_file())
    else:
        fs, path = found
        scheme = location.split("://")[0]
        for item in sorted(fs.ls(path, detail=True), key=lambda item: str(item["name"])):
            name = posixpath.basename(item["name"])
            if item["type"] == "file" and NAME.fullmatch(name):
                yield name, f"{scheme}://{item['name']}"
