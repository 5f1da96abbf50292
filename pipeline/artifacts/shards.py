"""The commit protocol for artifacts that are made in pieces: inventory, evidence, packs, answers, checkpoints.

A shard is one or more files at their final paths in an artifact's data folder in the store. It is committed by its
*seal*, a small JSON file with sizes, checksums, the number of rows, and the digest of the inputs it was made from.

1. Each file is created under its final name, only if that name is free.
2. Then the seal is created, only if there is none. The seal is the commit: the first one wins. A second writer checks
   the files that it lists and adopts them.
3. A file without a seal is replaced, after its writer had time to seal it. A seal whose files are missing, truncated,
   changed or made from other inputs is removed, and the shard is made again.
4. Once the artifact is published, nothing of it is removed or replaced.

So workers on several machines share nothing but the store, and one listing tells a rerun which shards are missing.
Publishing copies nothing: the manifest lists the sealed files.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import ArtifactError
from pipeline.artifacts import filesystem
from pipeline.artifacts.atomic import write_whole
from pipeline.artifacts.manifest import MANIFEST, FileEntry
from pipeline.artifacts.patience import patiently
from pipeline.artifacts.spec import canonical_json, digest
from pipeline.artifacts.store import ArtifactStore, sha256_of

SEALS = "_seals"
"""Folder of the seals, in the data folder; a manifest never lists it."""
READERS = 8
"""Threads that hash the files of earlier commits."""
TRIES = 5
"""Attempts of one commit when other writers interfere, or when a seal lists files that are gone."""
OTHER_WRITER_SECONDS = {"disk": 10.0, "object store": 150.0}
"""Time that another writer has between a file and its seal; after it the file counts as left by a killed writer. On an
object store it is longer than a writer repeats a request that fails."""

Content = bytes | Callable[[Path], object]
"""A file's bytes, or a function that writes them to a local path."""


class Seal(BaseModel):
    """The commit of one shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[FileEntry, ...] = Field(min_length=1)
    rows: int = Field(ge=0, description="rows in the shard")
    inputs: str = Field(description="digest of the inputs that the shard was made from")
    facts: dict[str, Any] = Field(
        default_factory=dict, description="values that the step reads again on a rerun, e.g. rejects"
    )
    versions: dict[str, str] = Field(
        default_factory=dict, description="file -> the object store's own version of it; empty on a local disk"
    )

    def to_bytes(self) -> bytes:
        """The content of the seal's file: canonical JSON that ends with its own digest."""
        body = self.model_dump(mode="json")
        return canonical_json({"seal": body, "sha256": digest(body)}).encode("ascii")

    @classmethod
    def from_bytes(cls, content: bytes) -> Self | None:
        """Read a seal's file; None if it is truncated or was changed."""
        try:
            outer = Sealed.model_validate_json(content)
            return cls.model_validate(outer.seal) if digest(outer.seal) == outer.sha256 else None
        except (ValidationError, ValueError):
            return None


class Sealed(BaseModel):
    """The JSON of a seal's file: the seal and its digest."""

    seal: dict[str, Any]
    sha256: str


class Shards:
    """The shards of one artifact that are made from the same inputs. Can be sent to workers.

    Args:
        store: the store of the artifact.
        folder: the data folder, relative to the store's root; one for each digest of inputs.
        inputs: digest of the inputs that all shards are made from.
    """

    def __init__(self, store: ArtifactStore, folder: str, inputs: str) -> None:
        self._store, self.folder, self.inputs = store, folder, inputs

    def path(self, file: str) -> str:
        """Full path of a data file in the store's file system."""
        return self._store.join(self.folder, file)

    def open(self, file: str) -> IO[bytes]:
        """Open a data file for reading. Raises OSError."""
        stream: IO[bytes] = self._store.fs.open(self.path(file), "rb")
        return stream

    @property
    def is_local(self) -> bool:
        """True if the store is on this machine's disk."""
        return self._store.is_local

    @property
    def location(self) -> str:
        """Path or URL of the data folder."""
        path = self.path("").rstrip("/")
        return path if self._store.is_local else str(self._store.fs.unstrip_protocol(path))

    def committed(self, inputs: str | None = None) -> dict[str, Seal]:
        """The seals of all shards that are committed and intact, by the shard's name.

        One listing gives names and sizes. A file is hashed only if its version (ETag) in the object store does not
        prove its content; on a local disk there are no versions. `inputs`: as in `commit`.
        """
        return patiently(f"the shards in {self.location}", lambda: self._committed(inputs))

    def _committed(self, inputs: str | None) -> dict[str, Seal]:
        sizes, versions = self._listing()
        contents = filesystem.read_each(self._store.fs, [self._seal_path(name) for name in _names(sizes)])
        seals = {name: Seal.from_bytes(contents.get(self._seal_path(name), b"")) for name in _names(sizes)}
        wanted = inputs or self.inputs
        likely = {
            name: seal
            for name, seal in sorted(seals.items())
            if seal is not None
            and seal.inputs == wanted
            and all(sizes.get(entry.path) == entry.size for entry in seal.files)
        }
        unread = {
            name: [e for e in seal.files if seal.versions.get(e.path, "none") != versions.get(e.path)]
            for name, seal in likely.items()
        }
        with ThreadPoolExecutor(READERS, thread_name_prefix="shards") as pool:
            sound = pool.map(lambda name: all(map(self._matches, unread[name])), likely)
            return {name: seal for (name, seal), good in zip(likely.items(), sound, strict=True) if good}

    def names(self) -> list[str]:
        """The names of all shards that have a seal, sorted. Nothing is read and nothing is checked."""
        return sorted(_names(self._listing()[0]))

    def checked(self, name: str) -> Seal:
        """The seal of one shard whose files are intact. Raises ArtifactError with what is wrong with it."""
        content, (sizes, versions) = self._read(name), self._listing()
        seal = None if content is None else Seal.from_bytes(content)
        if seal is None:
            raise ArtifactError(f"its seal is {'missing' if content is None else 'damaged'}")
        if seal.inputs != self.inputs:
            raise ArtifactError("it was made from other inputs")
        for entry in seal.files:
            if entry.path not in sizes:
                raise ArtifactError(f"{entry.path} is missing")
            if sizes[entry.path] != entry.size:
                raise ArtifactError(f"{entry.path} has {sizes[entry.path]} bytes, and its seal says {entry.size}")
            if seal.versions.get(entry.path, "none") != versions.get(entry.path) and not self._matches(entry):
                raise ArtifactError(f"{entry.path} does not have the checksum that its seal says")
        return seal

    def remove(self, name: str) -> None:
        """Remove a shard: first its seal, then the files that it lists. Raises ArtifactError if it is published."""
        content = self._read(name)
        self.drop(name)
        seal = None if content is None else Seal.from_bytes(content)
        for entry in () if seal is None else seal.files:
            filesystem.remove(self._store.fs, self.path(entry.path))

    def sweep(self) -> None:
        """Remove all files that no readable seal lists. Only for a writer that has the folder for itself.

        Another writer's shard that is not sealed yet is removed too. Raises ArtifactError if the artifact is published.
        """
        self.refuse_published()
        sizes, _ = self._listing()
        contents = filesystem.read_each(self._store.fs, [self._seal_path(name) for name in _names(sizes)])
        seals = (Seal.from_bytes(content) for content in contents.values())
        listed = {entry.path for seal in seals if seal is not None for entry in seal.files}
        for file in sizes:
            if file not in listed and not file.startswith(f"{SEALS}/"):
                filesystem.remove(self._store.fs, self.path(file))

    def commit(
        self,
        name: str,
        files: Mapping[str, Content],
        rows: int,
        facts: dict[str, Any] | None = None,
        inputs: str | None = None,
    ) -> Seal:
        """Write and seal a shard. Returns the valid seal, which is another writer's if that one was first.

        Args:
            name: name of the shard, e.g. 'part-00003-of-00012'.
            files: path in the data folder -> content. Equal arguments must give equal bytes.
            rows: rows in the shard.
            facts: values that the step needs when a rerun finds the shard committed.
            inputs: digest of the inputs of this shard, if they are not the inputs of all shards.

        Raises ArtifactError if other writers keep sealing files that do not match their seal, and StepError if the
        disk is full or the store fails for minutes (pipeline.artifacts.patience).
        """
        what = f"shard {name} in {self.location}"
        return patiently(what, lambda: self._commit(name, files, rows, facts, inputs))

    def _commit(
        self, name: str, files: Mapping[str, Content], rows: int, facts: dict[str, Any] | None, inputs: str | None
    ) -> Seal:
        with ExitStack() as stack:
            drafts = {file: stack.enter_context(filesystem.draft(self._store.fs, self.path(file))) for file in files}
            for file, content in files.items():
                drafts[file].write_bytes(content) if isinstance(content, bytes) else content(drafts[file])
            entries = tuple(_entry(file, drafts[file]) for file in files)
            versions = {
                f: v for f, draft in drafts.items() if (v := filesystem.expected_version(self._store.fs, draft))
            }
            mine = Seal(files=entries, rows=rows, inputs=inputs or self.inputs, facts=facts or {}, versions=versions)
            # Another writer may seal the same shard between any two of these lines. So each round starts from the seal
            # that exists now: adopt it if its files match, remove it if not, else place the files and create the seal.
            deadline = time.monotonic() + OTHER_WRITER_SECONDS["disk" if self._store.is_local else "object store"]
            for _ in range(TRIES):
                sealed = self._read(name)
                if sealed is not None:
                    first = Seal.from_bytes(sealed)
                    if first is not None and first.inputs == mine.inputs and all(map(self._matches, first.files)):
                        return first
                    self.drop(name)
                    deadline = 0.0  # its files are known to be bad: replace them now
                if not all(self._place(name, entry, drafts[entry.path], deadline) for entry in entries):
                    continue  # another writer sealed meanwhile: look at its shard
                made = filesystem.create_bytes(self._store.fs, self._seal_path(name), mine.to_bytes())
                # A writer that waited too long for this seal may have replaced a file just before it.
                if made and all(self._is_still(entry, drafts[entry.path], mine) for entry in entries):
                    return mine
        raise ArtifactError(
            f"shard {name} in {self.path('')} cannot be committed: other writers keep sealing files that do not match; "
            "run the step again on one kind of device"
        )

    def check_current(self, seals: Iterable[Seal]) -> None:
        """Raise ArtifactError unless these seals are still in the store and their files have the sealed sizes.

        Another writer with other bytes may have replaced a commit. Reads no data.
        """
        sizes, now = patiently(f"the shards in {self.location}", self._sizes_and_seals)
        for seal in seals:
            lost = [entry.path for entry in seal.files if sizes.get(entry.path) != entry.size]
            if lost or seal.to_bytes() not in now:
                raise ArtifactError(
                    f"{self.path(lost[0] if lost else seal.files[0].path)} was replaced by another writer before it "
                    "was published; run the step again"
                )

    def _sizes_and_seals(self) -> tuple[dict[str, int], set[bytes]]:
        sizes, _ = self._listing()
        paths = [self._seal_path(name) for name in _names(sizes)]
        return sizes, set(filesystem.read_each(self._store.fs, paths).values())

    def drop(self, name: str) -> None:
        """Remove a shard's seal, so that the shard is made again. Raises ArtifactError if the artifact is published."""
        self.refuse_published()
        filesystem.remove(self._store.fs, self._seal_path(name))

    def drop_all(self) -> None:
        """Remove every seal. Raises ArtifactError if the artifact is published."""
        self.refuse_published()
        for name in _names(self._listing()[0]):
            filesystem.remove(self._store.fs, self._seal_path(name))

    def local(self, seal: Seal, cache: Path) -> Path:
        """Local folder with a shard's files; the files of a remote store are downloaded into `cache` first."""
        if self._store.is_local:
            return Path(self.path(""))
        target = cache / digest([entry.sha256 for entry in seal.files])[:16]
        for entry in seal.files:
            file = target / entry.path
            if not file.exists() or file.stat().st_size != entry.size:
                file.parent.mkdir(parents=True, exist_ok=True)
                with write_whole(file) as stream:
                    self._store.fs.get_file(self.path(entry.path), stream.name)
        return target

    def _place(self, name: str, entry: FileEntry, source: Path, deadline: float) -> bool:
        """Write a file under its final name. Returns False if another writer sealed the shard meanwhile.

        If the name has other bytes, their writer has until `deadline` (monotonic clock) to seal them; then they are
        replaced. Raises ArtifactError if the artifact was published meanwhile.
        """
        path = self.path(entry.path)
        if filesystem.create(self._store.fs, path, source) or self._matches(entry):
            return True
        # The name has other bytes and there is no seal: the writer was killed, or is about to create the seal.
        while time.monotonic() < deadline:
            if self._read(name) is not None:
                return False
            time.sleep(0.05 if self._store.is_local else 1.0)
        self.refuse_published()
        filesystem.replace(self._store.fs, path, source)
        return True

    def _is_still(self, entry: FileEntry, source: Path, seal: Seal) -> bool:
        """True if a file is still the one that was placed: same hard link or ETag, else compared by content."""
        if self._store.is_local:
            return os.path.samefile(source, self.path(entry.path)) or self._matches(entry)
        version = filesystem.version(self._store.fs.info(self.path(entry.path)))
        return seal.versions.get(entry.path, "none") == version or self._matches(entry)

    def _matches(self, entry: FileEntry) -> bool:
        """True if a file exists with the size and checksum of an entry."""
        while True:
            try:
                with self._store.fs.open(self.path(entry.path), "rb") as stream:
                    return sha256_of(stream) == (entry.sha256, entry.size)
            except (FileNotFoundError, IsADirectoryError):
                return False
            except OSError as error:
                if self._store.is_local or error.errno != errno.EBUSY:  # s3fs: it was replaced while it was read
                    raise

    def refuse_published(self) -> None:
        """Raise ArtifactError if the artifact of these shards is published: no other process may go on with it."""
        artifact = self.folder.rpartition("/")[0]
        if self._store.fs.exists(self._store.join(artifact, MANIFEST)):
            raise ArtifactError(f"{artifact} was published meanwhile by another process; run again to use it")

    def _read(self, name: str) -> bytes | None:
        """The content of a seal's file, valid or not; None if there is none."""
        try:
            content: bytes = self._store.fs.cat_file(self._seal_path(name))
            return content
        except FileNotFoundError:
            return None

    def _seal_path(self, name: str) -> str:
        return self.path(f"{SEALS}/{name}.json")

    def _listing(self) -> tuple[dict[str, int], dict[str, str]]:
        """Size and, on an object store, version of every file below the data folder, by path in that folder."""
        try:
            found = self._store.fs.find(self.path("").rstrip("/"), detail=True)
        except FileNotFoundError:
            return {}, {}
        start = len(self.path(""))
        files = {str(path)[start:]: info for path, info in found.items()}
        versions = {file: v for file, info in files.items() if (v := filesystem.version(info))}
        return {file: int(info["size"]) for file, info in files.items()}, versions


def _names(files: Iterable[str]) -> list[str]:
    """The names of the shards that have a seal among the files of a data folder."""
    start, end = f"{SEALS}/", ".json"  # a seal that is being written ends with '.partial'
    return [file[len(start) : -len(end)] for file in files if file.startswith(start) and file.endswith(end)]


def folder_content(folder: Path) -> dict[str, Content]:
    """The files of a local folder as content to commit, by their paths in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): partial(shutil.copyfile, file) for file in files}


def _entry(file: str, source: Path) -> FileEntry:
    with open(source, "rb") as stream:
        checksum, size = sha256_of(stream)
    return FileEntry(path=file, size=size, sha256=checksum)
