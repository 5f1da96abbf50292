"""An existing artifact: its manifest and its data files, open for reading."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from model.errors import ArtifactError
from pipeline.artifacts.atomic import write_whole
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.spec import ArtifactRef, short

if TYPE_CHECKING:
    from pipeline.artifacts.store import ArtifactStore

CHUNK = 1 << 20


def sha256_of(stream: IO[bytes]) -> tuple[str, int]:
    """SHA-256 and length in bytes of a stream, read in pieces."""
    hasher, size = hashlib.sha256(), 0
    while block := stream.read(CHUNK):
        hasher.update(block)
        size += len(block)
    return hasher.hexdigest(), size


@dataclass(frozen=True)
class Problem:
    """One damaged or missing file that `verify` found."""

    ref: ArtifactRef
    file: str
    what: str


class Artifact:
    """An existing artifact, open for reading."""

    def __init__(self, store: "ArtifactStore", manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest

    @property
    def ref(self) -> ArtifactRef:
        """Kind, name and id."""
        return self.manifest.ref

    @property
    def files(self) -> list[str]:
        """Paths of the data files, relative to the data folder, sorted."""
        return [entry.path for entry in self.manifest.files]

    def path(self, file: str = "") -> str:
        """Full path of a data file (or of the data folder) in the store's file system."""
        base = self.store.join(self.ref.path, self.manifest.data)
        return f"{base}/{file}" if file else base

    def location(self, file: str = "") -> str:
        """As `path`, for people: on an object store it is the URL."""
        path = self.path(file)
        return path if self.store.is_local else str(self.store.fs.unstrip_protocol(path))

    def open(self, file: str) -> IO[bytes]:
        """Open a data file for reading."""
        if file not in self.files:
            raise ArtifactError(f"{self.ref} has no file '{file}'; it has: {', '.join(self.files) or 'none'}")
        return self.store.fs.open(self.path(file), "rb")  # type: ignore[no-any-return]

    def local(self, cache: Path | None = None, prefix: str = "") -> Path:
        """The data folder as a local path; the files of a remote store are downloaded into `cache` first.

        `prefix`: download only files whose paths start with this.
        """
        if self.store.is_local:
            return Path(self.path())
        if cache is None:
            raise ArtifactError(f"{self.ref} is on {self.store.root}: give a cache folder to read it locally")
        # The content digest is part of the name: an artifact that was made again with other bytes is fetched again.
        target = cache / self.ref.id / short(self.manifest.content_sha256)
        for entry in self.manifest.files:
            file = target / entry.path
            if entry.path.startswith(prefix) and not (file.exists() and file.stat().st_size == entry.size):
                with write_whole(file) as stream:
                    self.store.fs.get_file(self.path(entry.path), stream.name)
        return target

    def matching(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Data files with this prefix and suffix, sorted: e.g. the shards of a table."""
        return [file for file in self.files if file.startswith(prefix) and file.endswith(suffix)]

    def verify(self) -> list[Problem]:
        """Hash every file again. Returns an empty list if all files match the manifest."""
        problems = []
        for entry in self.manifest.files:
            try:
                with self.store.fs.open(self.path(entry.path), "rb") as stream:
                    found, size = sha256_of(stream)
            except FileNotFoundError:
                problems.append(Problem(self.ref, entry.path, "is missing"))
                continue
            except OSError as error:  # a folder in its place, no permission, a bad disk
                problems.append(Problem(self.ref, entry.path, f"cannot be read ({error.strerror or error})"))
                continue
            if size != entry.size:
                problems.append(Problem(self.ref, entry.path, f"has {size} bytes, not {entry.size}"))
            elif found != entry.sha256:
                problems.append(Problem(self.ref, entry.path, f"has sha256 {short(found)}, not {short(entry.sha256)}"))
        return problems
