"""Writing an artifact: fill a folder of one's own, then publish it."""

import io
import os
import platform
import shutil
import tempfile
import time
import uuid
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import ArtifactError
from pipeline.artifacts.manifest import Counts, Manifest, Parent, Provenance
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.store import Artifact, ArtifactStore

LIBRARIES = ("ray", "torch", "transformers", "timm", "segment-anything", "pyarrow", "numpy", "pillow", "pycocotools")
REJECTS = "rejects.parquet"
REJECTS_SCHEMA = pa.schema([("id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


class Staging:
    """A writer's own data folder. Files appear in the store; the artifact exists only after `publish`."""

    def __init__(
        self,
        store: ArtifactStore,
        ref: ArtifactRef,
        spec: StepSpec,
        attempt: int,
        parents: dict[str, Artifact],
        git_commit: str | None = None,
        job: str | None = None,
    ) -> None:
        self.store, self.ref, self.spec, self.attempt = store, ref, spec, attempt
        self._parents = {k: Parent(ref=a.ref, content_sha256=a.manifest.content_sha256) for k, a in parents.items()}
        self._data = f"data-{uuid.uuid4().hex}"
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self._git_commit, self._job = git_commit, job
        self.base = store.join(ref.path, self._data)
        store.fs.makedirs(self.base, exist_ok=True)

    def path(self, file: str) -> str:
        """Full path (in the store's file system) at which `file` is to be written."""
        path = f"{self.base}/{file}"
        self.store.fs.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def write_bytes(self, file: str, content: bytes) -> None:
        """Write one small file."""
        self.store.fs.pipe_file(self.path(file), content)

    def write_table(self, file: str, table: pa.Table, **options: Any) -> None:
        """Write one Parquet file; `options` go to pyarrow.parquet.write_table."""
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", **options)
        self.write_bytes(file, sink.getvalue())

    def write_rejects(self, rows: list[tuple[str, str, str]]) -> None:
        """Write the rejected rows (id, reason, detail); an empty list writes an empty table."""
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], []]
        self.write_table(REJECTS, pa.table(columns, schema=REJECTS_SCHEMA))

    def add_file(self, source: str | Path, file: str) -> None:
        """Copy a local file into the artifact."""
        if self.store.is_local:
            shutil.copyfile(source, self.path(file))
        else:
            self.store.fs.put_file(str(source), self.path(file))

    def adopt(self, path: str, file: str) -> None:
        """Take over a finished file of the store, by its full path, without sending its bytes through here.

        A hard link where the store is local (the file must not be changed afterwards), else the store's own copy.
        """
        if self.store.is_local:
            try:
                os.link(path, self.path(file))
            except OSError:  # another file system, or one without links
                self.add_file(path, file)
        else:
            self.store.fs.cp_file(path, self.path(file))

    def add_folder(self, source: str | Path, prefix: str = "") -> None:
        """Copy a local folder's files into the artifact, below `prefix`."""
        root = Path(source)
        for file in sorted(p for p in root.rglob("*") if p.is_file()):
            self.add_file(file, f"{prefix}{file.relative_to(root).as_posix()}")

    def scratch(self) -> Path:
        """A local scratch folder beside the data that is not part of the artifact; the caller removes it."""
        return Path(tempfile.mkdtemp(prefix="agevlm-"))

    def publish(self, counts: Counts, statistics: dict[str, Any] | None = None, device: str = "cpu") -> Artifact:
        """Hash every file, write the manifest, and return the artifact that then exists.

        On a local store the files are on the disk before the manifest is: no loss of power leaves a manifest of files
        that are empty.
        """
        prefix = len(self.base) + 1
        files = sorted(str(path) for path in self.store.fs.find(self.base))
        if not files:
            raise ArtifactError(f"{self.ref}: the step wrote no file, so there is nothing to publish")
        manifest = Manifest(
            ref=self.ref,
            attempt=self.attempt,
            spec=self.spec,
            parents=self._parents,
            data=self._data,
            files=[self.store.entry(path, path[prefix:]) for path in files],
            counts=counts,
            statistics=statistics or {},
            provenance=Provenance(
                started=self._started.isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - self._clock, 3),
                git_commit=self._git_commit,
                versions=library_versions(),
                host=platform.node(),
                device=device,
                job=self._job,
            ),
        )
        return self.store.publish(manifest)

    def discard(self) -> None:
        """Remove this writer's own unpublished files (after a failed step)."""
        if self.store.fs.exists(self.base):
            self.store.fs.rm(self.base, recursive=True)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that results can depend on, without importing them."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
