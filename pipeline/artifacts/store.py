"""The artifact store: folders `<root>/<kind>/<name>/<id>/` on any fsspec file system.

An artifact exists when its manifest does. The manifest is written last and only if absent, so two writers of one id
cannot harm each other: the second verifies the first's files and adopts them. No run deletes an artifact: only
`agevlm gc` does (`gc.py` has its rules, `removal.py` removes).
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from model.errors import ArtifactError
from pipeline.artifacts import filesystem
from pipeline.artifacts.atomic import partial_path, sync_file, sync_folders, write_whole
from pipeline.artifacts.attempts import REFS, Attempts
from pipeline.artifacts.manifest import MANIFEST, FileEntry, Manifest, NewerFormat
from pipeline.artifacts.patience import patiently
from pipeline.artifacts.resolve import resolve
from pipeline.artifacts.spec import ArtifactRef, StepSpec, is_safe_name, parsed, short
from pipeline.artifacts.tags import LATEST, TAGS, Tags
from pipeline.artifacts.verification import CHUNK, Problem, check_files, sha256_of

__all__ = ["CHUNK", "INTERNAL", "WORK", "Artifact", "ArtifactStore", "Problem", "sha256_of"]
WORK = "work"
INTERNAL = frozenset({REFS, TAGS, "gc", "progress", "runs", "jobs", "tensorboard", WORK})
"""Folders below the root that hold no artifacts."""


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
        return check_files(self.store.fs, self.path(), self.manifest)


class ArtifactStore:
    """All artifacts below one root."""

    def __init__(self, root: str) -> None:
        """Open the store at a local path or fsspec URL (`s3://bucket/prefix`)."""
        self.fs, path = filesystem.open_filesystem(root)
        self.root = root
        self.base = path.rstrip("/")
        self.is_local = filesystem.is_local(self.fs)

    def __reduce__(self) -> tuple[Callable[[str], "ArtifactStore"], tuple[str]]:
        """Pickle the root only: the receiver opens the store again, with the retries of `open_filesystem`."""
        return ArtifactStore, (self.root,)

    def join(self, *parts: str) -> str:
        """A path below the root. Raises ArtifactError if the parts lead out of it."""
        path = "/".join(parts)
        if ".." in path.split("/") or "\0" in path:
            raise ArtifactError(f"the path {path[:200]!r} leads out of the store {self.root}; give one without '..'")
        return f"{self.base}/{path}"

    # -- artifacts

    def manifest_path(self, ref: ArtifactRef) -> str:
        """Full path of an artifact's manifest."""
        return self.join(ref.path, MANIFEST)

    def get(self, ref: ArtifactRef) -> Artifact | None:
        """The artifact, or None if it does not exist.

        Raises ArtifactError if its manifest cannot be read, is damaged or edited, or belongs to another artifact.
        """
        path = self.manifest_path(ref)
        try:
            manifest = Manifest.from_bytes(self.fs.cat_file(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArtifactError(
                f"the manifest {path} cannot be read ({error.strerror or error}); correct that, "
                "or move its folder out of the store and run the step again"
            ) from error
        except NewerFormat as error:
            raise ArtifactError(
                f"the manifest {path} cannot be read ({error}); use the version that wrote it"
            ) from error
        except ValueError as error:
            raise ArtifactError(
                f"the manifest {path} is damaged ({error}); move its folder out of the store and run the step again"
            ) from error
        if manifest.ref != ref:
            raise ArtifactError(f"the manifest {path} is that of {manifest.ref.path}; move it back or out of the store")
        return Artifact(self, manifest)

    def require(self, ref: ArtifactRef) -> Artifact:
        """The artifact; raises ArtifactError if it does not exist."""
        artifact = self.get(ref)
        if artifact is None:
            raise ArtifactError(f"{ref} does not exist in {self.root}; run the step that makes it ('agevlm plan')")
        return artifact

    def kinds(self) -> list[str]:
        """The kinds that have a folder, sorted. One listing."""
        return [kind for kind in self._folders(self.base) if kind not in INTERNAL and not kind.startswith(".")]

    def names(self, kind: str) -> list[str]:
        """The names that have a folder in a kind, sorted. One listing."""
        return [name for name in self._folders(self.join(kind)) if not name.startswith(".")]

    def ids(self, kind: str, name: str) -> list[str]:
        """The ids that have a folder in a kind and name, with a manifest or without, sorted. One listing."""
        return [found for found in self._folders(self.join(kind, name)) if found != LATEST]

    def _folders(self, folder: str) -> list[str]:
        """Names of folders that agevlm can have made: other programs put folders with any name into a store."""
        return [name for name in filesystem.folders(self.fs, folder) if is_safe_name(name)]

    def exists(self, ref: ArtifactRef) -> bool:
        """True if an artifact has a manifest. It is not read."""
        return bool(self.fs.exists(self.manifest_path(ref)))

    def refs(self, kind: str | None = None) -> Iterator[ArtifactRef]:
        """The refs of all artifacts, or of those of a kind, sorted by kind, name and id. Opens no manifest."""
        for found in self.kinds() if kind is None else [kind]:
            # Not `fs.glob`: it takes * ? [ in the root for a pattern.
            for path in sorted(filesystem.files(self.fs, self.join(found), maxdepth=3)):
                name, *rest = path[len(self.join(found)) + 1 :].split("/")
                if (
                    len(rest) == 2
                    and rest[-1] == MANIFEST
                    and rest[0] != LATEST
                    and all(map(is_safe_name, (name, *rest)))
                ):
                    yield ArtifactRef(kind=found, name=name, id=rest[0])

    def artifacts(self, damaged: list[ArtifactError] | None = None, kind: str | None = None) -> Iterator[Artifact]:
        """Every artifact, or every one of a kind, sorted by kind, name and start time.

        Errors about damaged manifests are appended to `damaged`; without that list, the first is raised.
        """
        found = []
        for ref in self.refs(kind):
            try:
                artifact = self.get(ref)
            except ArtifactError as error:
                if damaged is None:
                    raise
                damaged.append(error)
                continue
            if artifact is not None:  # else it was moved away just now
                found.append(artifact)
        key = lambda a: (a.ref.kind, a.ref.name, a.manifest.provenance.started)  # noqa: E731
        yield from sorted(found, key=key)

    def find(self, text: str, *kinds: str) -> Artifact:
        """The artifact that a user means by an id or its first digits, KIND/NAME/ID, a tag, a step or `latest`.

        For the order and for `kinds` see `pipeline.artifacts.resolve`. Raises ArtifactError if there is none or more
        than one, or if its manifest is damaged.
        """
        return self.require(self.find_ref(text, *kinds))

    def find_ref(self, text: str, *kinds: str) -> ArtifactRef:
        """The same as `find`, without opening the manifest that is found."""
        return resolve(self, text, kinds)

    @property
    def tags(self) -> Tags:
        """The names that people gave to artifacts."""
        return Tags(self.fs, self.base)

    def publish(self, manifest: Manifest) -> Artifact:
        """Write the manifest, only if absent. Returns the artifact that exists afterwards.

        If another writer was first, its files are verified and its artifact is returned. Raises ArtifactError if they
        do not match its manifest, StepError if the disk is full or the store fails for minutes.
        """
        return patiently(f"the manifest {self.manifest_path(manifest.ref)}", lambda: self._publish(manifest))

    def _publish(self, manifest: Manifest) -> Artifact:
        path = self.manifest_path(manifest.ref)
        if self.is_local:  # before the manifest: after a power loss it must not list files that are gone
            sync_folders(Path(self.join(manifest.ref.path, manifest.data)), above=4)  # artifact, name, kind, root
        if filesystem.create_bytes(self.fs, path, manifest.to_bytes()):
            self._link_latest(manifest)
            return Artifact(self, manifest)
        first = self.require(manifest.ref)
        problems = first.verify()
        if problems:
            raise ArtifactError(
                f"{manifest.ref} was published by another writer, but its file {problems[0].file} "
                f"{problems[0].what}; move {self.join(manifest.ref.path)} away and run the step again"
            )
        return first

    def _link_latest(self, manifest: Manifest) -> None:
        """Point the link `<kind>/<name>/latest` at the data folder that was published last (local disk only)."""
        if not self.is_local:
            return
        link = partial_path(Path(self.join(manifest.ref.kind, manifest.ref.name, LATEST)))
        try:
            link.symlink_to(f"{manifest.ref.id}/{manifest.data}")
            os.replace(link, link.with_name(LATEST))
        except OSError as error:  # the artifact exists already, and no code needs the link
            print(f"{link.with_name(LATEST)} was not renewed: {error}", flush=True)
            link.unlink(missing_ok=True)

    # -- small mutable objects beside the artifacts

    def write_json(self, path: str, value: Any) -> None:
        """Replace one small JSON file below the root atomically."""
        full, content = self.join(path), json.dumps(value).encode()
        if self.is_local:
            with write_whole(Path(full)) as stream:
                stream.write(content)
        else:
            self.fs.pipe_file(full, content)

    def read_json(self, path: str) -> Any | None:
        """A small JSON file below the root, or None if absent. Raises ValueError if it is no JSON."""
        try:
            return parsed(self.fs.cat_file(self.join(path)))
        except FileNotFoundError:
            return None

    def attempt(self, spec: StepSpec) -> int:
        """The current attempt of a spec: 0 unless a new one was forced."""
        return Attempts(self.fs, self.base, spec).current()

    def new_attempt(self, spec: StepSpec) -> int:
        """Move a spec to an attempt that no other caller gets (`force`); the old attempt's artifact stays."""
        return Attempts(self.fs, self.base, spec).issue_next()

    def reach_attempt(self, spec: StepSpec, attempt: int) -> None:
        """Issue an attempt of a spec, unless another process issued it."""
        Attempts(self.fs, self.base, spec).issue(attempt)

    def entry(self, path: str, relative: str) -> FileEntry:
        """Hash a data file that was written at `path`; on a local store it is also synced to disk."""
        with self.fs.open(path, "rb") as stream:
            checksum, size = sha256_of(stream)
            if self.is_local:
                sync_file(stream)
        return FileEntry(path=relative, size=size, sha256=checksum)
