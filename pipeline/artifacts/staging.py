"""Writing an artifact: fill its data folder, then publish it.

A step that takes seconds writes into a private folder (`data-<uuid>`). A step that works in pieces commits shards into
a folder that is named after its inputs (`data-<digest>`), where a rerun or another machine finds them.
"""

import io
import os
import platform
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import pipeline.artifacts.pickled_columns  # noqa: F401  # such columns are refused
from model.errors import ArtifactError
from pipeline.artifacts import filesystem
from pipeline.artifacts.manifest import Counts, FileEntry, Manifest, Origin, Parent, Provenance
from pipeline.artifacts.patience import patiently
from pipeline.artifacts.shards import Content, Seal, Shards
from pipeline.artifacts.spec import ArtifactRef, StepSpec, digest, short
from pipeline.artifacts.store import WORK, Artifact, ArtifactStore
from pipeline.artifacts.versions import library_versions

REJECTS = "rejects.parquet"
REJECT_PARTS = "rejects"
"""Folder of the rejected rows of single shards."""
ROWS_AT_ONCE = 1 << 14  # rejected rows that are put together before they are written
REJECTS_SCHEMA = pa.schema([("id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
Reject = tuple[str, str, str]
"""A rejected row: its id, the name of the reason, and a detail for people."""


class Staging:
    """The data folder of an artifact that is being made. The artifact exists only after `publish`."""

    def __init__(
        self,
        store: ArtifactStore,
        ref: ArtifactRef,
        spec: StepSpec,
        attempt: int,
        parents: dict[str, Artifact],
        git_commit: str | None = None,
        job: str | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.store, self.ref, self.spec, self.attempt = store, ref, spec, attempt
        self._parents = {k: Parent(ref=a.ref, content_sha256=a.manifest.content_sha256) for k, a in parents.items()}
        self._own = f"data-{uuid.uuid4().hex}"
        self._shards: Shards | None = None
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self._git_commit, self._job, self._origin = git_commit, job, origin

    # -- the private folder

    @property
    def base(self) -> str:
        """Full path of this writer's private folder."""
        return self.store.join(self.ref.path, self._own)

    def path(self, file: str) -> str:
        """Full path (in the store's file system) to write `file` to. Creates its folder."""
        path = f"{self.base}/{file}"
        self.store.fs.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def write_bytes(self, file: str, content: bytes) -> None:
        """Write one small file. Raises StepError if the disk is full or the store fails for minutes."""
        patiently(f"{self.base}/{file}", lambda: self.store.fs.pipe_file(self.path(file), content))

    def write_table(self, file: str, table: pa.Table) -> None:
        """Write one Parquet file."""
        self.write_bytes(file, table_bytes(table))

    def write_rejects(self, rows: Iterable[Reject]) -> None:
        """Write the rejected rows; an empty table if there are none."""
        self.write_table(REJECTS, rejects_table(rows))

    def discard(self) -> None:
        """Remove the private folder, unless the published artifact uses it. Committed shards stay.

        A step can fail after its manifest was written. So if the store cannot tell, the folder stays.
        """
        try:
            published = self.store.get(self.ref)
            if published is None or published.manifest.data != self._own:
                filesystem.remove_tree(self.store.fs, self.base)
        except (ArtifactError, OSError) as error:
            print(f"{self.base} was not removed: {error}", flush=True)

    # -- a folder of shards

    def shards(self, made_from: str = "") -> Shards:
        """The shards of this artifact that are made from exactly these inputs.

        The folder's name has the digest of the inputs' content. So when an input was made again with other bytes
        under the same id, the shards go to another folder. `made_from`: digest of the data that the step reads besides
        its input artifacts, such as raw data.
        """
        inputs = digest({"artifacts": {k: p.content_sha256 for k, p in self._parents.items()}, "raw": made_from})
        self._shards = Shards(self.store, f"{self.ref.path}/data-{short(inputs)}", inputs)
        return self._shards

    def work_path(self, name: str) -> str:
        """Full path in the store for files that the step's workers share while it runs; removed after publishing."""
        return self.store.join(WORK, self.ref.id, name)

    def work_shards(self, name: str) -> Shards:
        """Shards for the step's workers that are not part of the artifact."""
        assert self._shards is not None
        return Shards(self.store, f"{WORK}/{self.ref.id}/{name}-{short(self._shards.inputs)}", self._shards.inputs)

    def remove_work(self) -> None:
        """Remove the files that the step's workers shared."""
        filesystem.remove_tree(self.store.fs, self.store.join(WORK, self.ref.id))

    def commit_summary(self, name: str, files: Mapping[str, Content], parts: Iterable[Seal], rows: int = 0) -> Seal:
        """Commit files that are computed from the shards, such as the table of all rejects."""
        assert self._shards is not None
        return self._shards.commit(name, files, rows, inputs=digest_of(parts))

    def commit_rejects(self, rows: Iterable[Reject], parts: Iterable[Seal]) -> Seal:
        """Commit the table of the rejected rows of some shards."""
        return self.commit_summary("rejects", {REJECTS: table_bytes(rejects_table(rows))}, parts)

    def commit_reject_parts(self, parts: Sequence[Seal]) -> Seal:
        """Commit the table of the rejected rows of some shards, from their files in REJECT_PARTS. Holds few rows."""
        files = [entry.path for seal in parts for entry in seal.files if entry.path.startswith(f"{REJECT_PARTS}/")]
        return self.commit_summary("rejects", {REJECTS: partial(self._join_rejects, files)}, parts)

    def _join_rejects(self, files: Sequence[str], target: Path) -> None:
        """Write the rows of several tables of rejects into one local file."""
        assert self._shards is not None
        with pq.ParquetWriter(target, REJECTS_SCHEMA, compression="zstd") as writer:
            waiting: list[pa.Table] = []
            for file in files:
                with self.store.fs.open(self._shards.path(file), "rb") as stream:
                    waiting.append(pq.read_table(stream))
                if sum(map(len, waiting)) >= ROWS_AT_ONCE:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            writer.write_table(pa.concat_tables([*waiting, REJECTS_SCHEMA.empty_table()]))

    def drop_shards(self) -> None:
        """Remove all commits and work files, because they may hold other raw data than was planned."""
        if self._shards is not None:
            self._shards.drop_all()
        self.remove_work()

    # -- the end

    def publish(
        self,
        counts: Counts,
        statistics: dict[str, Any] | None = None,
        device: str = "cpu",
        seals: Iterable[Seal] = (),
    ) -> Artifact:
        """Write the manifest and return the artifact, which exists from then on.

        The manifest lists the files of `seals` if the artifact is made of shards, else all files in the private folder,
        which are hashed now. On a local store the files are synced to disk before the manifest is written, so that
        after a power loss no manifest lists empty files.
        """
        if self._shards is not None:
            # Sealed files were hashed when they were committed, so nothing is read again. But another writer may have
            # replaced one since, and then the seals in hand are not those in the store.
            seals = list(seals)
            self._shards.check_current(seals)
            data = self._shards.folder.split("/")[-1]
            files = sorted((entry for seal in seals for entry in seal.files), key=lambda entry: entry.path)
        else:
            data, files = self._own, self._written()
        if not files:
            raise ArtifactError(f"{self.ref}: the step wrote no file, so there is nothing to publish")
        manifest = Manifest(
            ref=self.ref,
            attempt=self.attempt,
            spec=self.spec,
            parents=self._parents,
            data=data,
            files=files,
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
                origin=self._origin,
            ),
        )
        return self.store.publish(manifest)

    def _written(self) -> list[FileEntry]:
        prefix = len(self.base) + 1
        return [self.store.entry(path, path[prefix:]) for path in sorted(map(str, self.store.fs.find(self.base)))]


def digest_of(seals: Iterable[Seal]) -> str:
    """Digest of the files, rows and facts of some shards: the `inputs` of a commit that is computed from them."""
    return digest([[seal.rows, seal.facts, [[entry.path, entry.sha256] for entry in seal.files]] for seal in seals])


def table_bytes(table: pa.Table, **options: Any) -> bytes:
    """A table as a Parquet file; `options` go to pyarrow.parquet.write_table."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", **options)
    return sink.getvalue()


def rejects_table(rows: Iterable[Reject]) -> pa.Table:
    """The rejected rows as a table."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    return pa.table(columns, schema=REJECTS_SCHEMA)
