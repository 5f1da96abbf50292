"""The shards of a pack in the store: their names, sizes and checksums, and how one is opened.

A shard is read by byte range: from a local disk with plain reads, from an object store with one request for the columns
of a row group. Nothing is downloaded as a whole.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.errors import DataError
from pipeline.artifacts import filesystem
from pipeline.artifacts.spec import short
from pipeline.artifacts.store import Artifact, sha256_of
from pipeline.schemas import PACK

READERS = {"disk": 8, "object store": 64}
"""Threads that read footers and small columns of many shards. An object store answers each after a while."""
DAMAGE = (OSError, pa.ArrowException, EOFError, UnicodeDecodeError)
"""Errors of a shard that is missing, cut or changed. Most of Arrow's errors are ValueErrors too."""
REMEDY = "restore the file, or move the pack's folder out of the store and run the step 'pack' again"
Result = TypeVar("Result")


@dataclass(frozen=True)
class ShardFile:
    """One shard as the manifest lists it."""

    path: str
    """Relative to the pack's data folder."""
    size: int
    """Bytes."""
    sha256: str | None
    """None where there is no manifest."""


@dataclass(frozen=True)
class PackFiles:
    """The shards of one pack. Opens nothing by itself."""

    fs: Any
    """The file system (fsspec)."""
    folder: str
    """Full path of the data folder in the file system."""
    name: str
    """The pack, for messages."""
    shards: tuple[ShardFile, ...]

    @classmethod
    def of(cls, pack: Artifact) -> Self:
        """The shards of an artifact. Raises DataError if it has none."""
        entries = [e for e in pack.manifest.files if e.path.startswith("part-") and e.path.endswith(".parquet")]
        shards = tuple(ShardFile(entry.path, entry.size, entry.sha256) for entry in entries)
        return cls(pack.store.fs, pack.path(), str(pack.ref), shards)._checked()

    @classmethod
    def local(cls, folder: Path) -> Self:
        """The shards in a local folder that is no artifact: tools and tests. Raises DataError if it has none."""
        files = sorted(folder.glob("part-*.parquet"))
        shards = tuple(ShardFile(file.name, file.stat().st_size, None) for file in files)
        return cls(LocalFileSystem(), str(folder), str(folder), shards)._checked()

    def _checked(self) -> Self:
        if not self.shards:
            raise DataError(f"pack {self.name} holds no part-*.parquet; run the step 'pack' again")
        return self

    def path(self, shard: int) -> str:
        """Full path of a shard in the file system."""
        return f"{self.folder}/{self.shards[shard].path}"

    def open(self, shard: int, verify: bool = True) -> pq.ParquetFile:
        """Open a shard: reads its footer. To be closed by the caller, with `close(force=True)`.

        verify: check the checksum of each page that is read.
        Raises one of DAMAGE, also for a file that has not the columns of a pack.
        """
        is_local = filesystem.is_local(self.fs)
        source = self.path(shard)
        if not is_local:
            # Arrow asks for exact ranges, so fsspec's own cache would only read more. The size is known: no request.
            source = self.fs.open(source, "rb", cache_type="none", size=self.shards[shard].size)
        file = pq.ParquetFile(source, pre_buffer=not is_local, page_checksum_verification=verify)
        for field in PACK:
            index = file.schema_arrow.get_field_index(field.name)
            if index < 0 or file.schema_arrow.field(index).type != field.type:
                what = f"column {field.name}" if index < 0 else f"{field.name} of type {field.type}"
                file.close(force=True)
                raise pa.ArrowInvalid(f"it has no {what}")
        return file

    @contextmanager
    def opened(self, shard: int) -> Iterator[pq.ParquetFile]:
        """A shard, open for the block. Raises DataError that names the shard and its checksum if it is damaged."""
        file = None
        try:
            file = self.open(shard)
            yield file
        except DAMAGE as error:
            raise DataError(f"{self.describe(shard)}: {self.state(shard, error)}; {REMEDY}") from error
        finally:
            if file is not None:
                file.close(force=True)

    def each(self, shards: Iterable[int], read: Callable[[int], Result]) -> Iterator[Result]:
        """The results of a function of a shard, in order, from several threads."""
        threads = READERS["disk" if filesystem.is_local(self.fs) else "object store"]
        with ThreadPoolExecutor(threads, thread_name_prefix="shards") as pool:
            yield from pool.map(read, shards)

    def column(self, shard: int, names: Sequence[str]) -> pa.Table:
        """Some columns of a whole shard. Raises DataError if it is damaged."""
        with self.opened(shard) as file:
            # One thread: callers read many shards at once.
            return file.read(columns=list(names), use_threads=False)

    def describe(self, shard: int) -> str:
        """A shard, for messages."""
        return f"shard {self.shards[shard].path} of pack {self.name}"

    def state(self, shard: int, error: Exception) -> str:
        """The difference between a shard's bytes, which are read as a whole, and its manifest; after a failed read."""
        expected, said = self.shards[shard], str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        try:
            with self.fs.open(self.path(shard), "rb") as stream:
                found, size = sha256_of(stream)
        except FileNotFoundError:
            return f"the file is missing (sha256 {short(expected.sha256)} is expected)" if expected.sha256 else said
        except OSError as again:
            return f"the file cannot be read ({again.strerror or again})"
        if size != expected.size:
            lost = f", sha256 {short(found)} and not {short(expected.sha256)}" if expected.sha256 else ""
            return f"the file has {size} bytes and not {expected.size}{lost}"
        if expected.sha256 is None:
            return f"the file's sha256 is {short(found)}, and no manifest says what it should be ({said})"
        if found != expected.sha256:
            return (
                f"the file's sha256 is {short(found)} and not {short(expected.sha256)}, as its manifest says ({said})"
            )
        return f"the read failed although the file's sha256 is {short(found)}, as its manifest says ({said})"
