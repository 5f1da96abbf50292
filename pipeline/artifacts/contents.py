"""The things that a store holds, each with its size and age: artifacts, what killed writers left, and working files.

Only what has a name that agevlm gives is listed: people keep notes and backups in a store, or give a folder that is
no store. Each object is listed once. One artifact's files are in memory at a time, and only its facts are kept.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model.errors import ArtifactError
from pipeline.artifacts import filesystem
from pipeline.artifacts.manifest import MANIFEST
from pipeline.artifacts.room import DRAFT
from pipeline.artifacts.spec import FULL_ID, ArtifactRef
from pipeline.artifacts.store import WORK, ArtifactStore

SEALS = "_seals/"
PRIVATE = re.compile(r"data-[0-9a-f]{32}")
"""A data folder that one writer made for itself; no rerun goes on with it."""
DATA_FOLDER = re.compile(r"data-([0-9a-f]{12}|[0-9a-f]{32})")
"""Any data folder: of shards, or of one writer."""
EVENT_FILES = re.compile(r".+-[0-9a-f]{12}")
"""A folder of TensorBoard's event files; its name ends with the first digits of a checkpoint's id."""
READERS = 16
"""Folders of an object store that are looked at at once."""

What = Literal[
    "artifact",
    "damaged artifact",
    "unfinished shards",
    "unfinished files",
    "leftover files",
    "work files",
    "progress",
    "job file",
    "run file",
    "event files",
    "cached files",
]

SINGLE_FILES: dict[str, tuple[What, re.Pattern[str]]] = {
    "progress": ("progress", re.compile(r"[0-9a-f]{64}\.json")),
    "jobs": ("job file", re.compile(r"[^/]+\.json")),
    "runs": ("run file", re.compile(r"[^/]+\.(json|cancel|events\.jsonl)|[^/]+\.events/[^/]+\.json")),
}
"""Folders whose files are things of their own, and the names of these files."""
SCRATCH: dict[str, What] = {"work": "work files", "cache": "cached files"}
"""Folders of the scratch folder whose entries belong to single artifacts."""


@dataclass(frozen=True)
class Thing:
    """Something that is kept or removed as a whole."""

    what: What
    path: str
    """Relative to the store's root; an absolute path for files in the scratch folder."""
    files: int
    size: int
    """Bytes."""
    changed: float
    """Time of the newest file, seconds since 1970. An artifact's is the time at which it came to exist."""
    id: str = ""
    """The artifact that it is or belongs to; '' if it belongs to none."""
    ref: ArtifactRef | None = None
    """An artifact's ref."""
    data: str = ""
    """Name of an artifact's data folder."""
    parents: tuple[ArtifactRef, ...] = ()
    """An artifact's inputs."""
    started: str = ""
    """An artifact's start, UTC, ISO 8601."""
    job: str = ""
    """Ray submission id of the job that made an artifact."""
    paths: tuple[str, ...] = ()
    """Its files as full paths, if it is not a whole folder."""


@dataclass
class _Sum:
    """Files that make one thing."""

    files: int = 0
    size: int = 0
    changed: float = 0.0

    def add(self, info: dict[str, Any]) -> None:
        self.files += 1
        self.size += int(info.get("size") or 0)
        self.changed = max(self.changed, filesystem.changed(info))


def contents(store: ArtifactStore) -> Iterator[Thing]:
    """Everything below the kinds, then the working files. Raises OSError if the store cannot be listed."""
    places = [(kind, name) for kind in store.kinds() for name in store.names(kind)]
    folders = (
        ArtifactRef(kind=kind, name=name, id=found)
        for kind, name in places
        for found in store.ids(kind, name)
        if FULL_ID.fullmatch(found)
    )
    if store.is_local:
        for ref in folders:
            yield from artifact_folder(store, ref)
    else:
        with ThreadPoolExecutor(READERS) as pool:
            for things in pool.map(lambda ref: list(artifact_folder(store, ref)), folders):
                yield from things
    yield from working_files(store)


def artifact_folder(store: ArtifactStore, ref: ArtifactRef) -> Iterator[Thing]:
    """The things in the folder of one id: its artifact, data folders that no manifest names, files that none lists.

    Raises OSError if a folder cannot be read: it could hold a manifest.
    """
    listed = filesystem.files(store.fs, store.join(ref.path))
    start = len(store.join(ref.path)) + 1
    files = {path[start:]: info for path, info in listed.items()}
    artifact, damage = None, False
    if MANIFEST in files:
        try:
            artifact = store.get(ref)
        except ArtifactError:
            damage = True
    if damage:
        whole = _Sum()
        for info in files.values():
            whole.add(info)
        yield _thing("damaged artifact", ref, whole, ref.path)
        return
    data = "" if artifact is None else artifact.manifest.data
    wanted = set() if artifact is None else {f"{data}/{file}" for file in artifact.files} | {MANIFEST}
    sums: dict[str, _Sum] = {}
    loose: list[str] = []
    for file, info in files.items():
        folder = file.split("/")[0] if "/" in file else ""
        own = file in wanted or (folder == data != "" and file.startswith(f"{data}/{SEALS}") and file.endswith(".json"))
        if own:
            key = MANIFEST
        elif folder == data != "" or (folder == "" and DRAFT.search(file)):
            key = ""
            loose.append(store.join(ref.path, file))
        elif DATA_FOLDER.fullmatch(folder):
            key = folder
        else:
            continue
        sums.setdefault(key, _Sum()).add(info)
    if artifact is not None:
        own_files = sums.pop(MANIFEST)
        own_files.changed = filesystem.changed(files[MANIFEST])
        parents = tuple(parent.ref for parent in artifact.manifest.parents.values())
        made = artifact.manifest.provenance
        facts = {"started": made.started, "job": made.job or ""}
        yield _thing("artifact", ref, own_files, ref.path, parents=parents, data=data, **facts)
    if "" in sums:
        place = f"{ref.path}/{data}" if data else ref.path
        yield _thing("leftover files", ref, sums.pop(""), place, paths=tuple(loose))
    for folder, found in sums.items():
        private = artifact is not None or PRIVATE.fullmatch(folder)
        yield _thing("unfinished files" if private else "unfinished shards", ref, found, f"{ref.path}/{folder}")
    if not files and store.is_local:  # folders that a killed writer left empty
        empty = Path(store.join(ref.path))
        with suppress(FileNotFoundError):  # its writer removed it just now
            if not empty.is_symlink():
                yield _thing("unfinished files", ref, _Sum(changed=empty.stat().st_mtime), ref.path)


def _thing(what: What, ref: ArtifactRef, found: _Sum, path: str, **more: Any) -> Thing:
    own = ref if what in ("artifact", "damaged artifact") else None
    return Thing(what, path, found.files, found.size, found.changed, id=ref.id, ref=own, **more)


def working_files(store: ArtifactStore) -> Iterator[Thing]:
    """The files of `work`, `progress`, `jobs`, `runs` and `tensorboard`, and files that were being written."""
    for folder in store.names(WORK):
        if FULL_ID.fullmatch(folder):
            yield from _folder_thing(store, "work files", f"{WORK}/{folder}", folder)
    for folder in store.names("tensorboard"):
        if EVENT_FILES.fullmatch(folder):
            yield from _folder_thing(store, "event files", f"tensorboard/{folder}", folder.rpartition("-")[2])
    for top, (what, names) in SINGLE_FILES.items():
        yield from _single_files(store, top, what, names)


def _folder_thing(store: ArtifactStore, what: What, path: str, id: str) -> Iterator[Thing]:
    found = _Sum()
    for info in filesystem.files(store.fs, store.join(path)).values():
        found.add(info)
    if not found.files and store.is_local:
        with suppress(FileNotFoundError):
            found.changed = Path(store.join(path)).stat().st_mtime
    yield Thing(what, path, found.files, found.size, found.changed, id=id)


def _single_files(store: ArtifactStore, top: str, what: What, names: re.Pattern[str]) -> Iterator[Thing]:
    for path, info in filesystem.files(store.fs, store.join(top)).items():
        file = path[len(store.join(top)) + 1 :]
        draft = DRAFT.search(file) is not None
        if not draft and not names.fullmatch(file):
            continue
        kind: What = "leftover files" if draft else what
        size, changed = int(info.get("size") or 0), filesystem.changed(info)
        yield Thing(kind, f"{top}/{file}", 1, size, changed, id=file.split(".")[0], paths=(path,))


def scratch_files(scratch: Path) -> Iterator[Thing]:
    """Files of single artifacts in the scratch folder, which only this machine uses, and half-written files."""
    for top in sorted(scratch.iterdir()) if scratch.is_dir() else []:
        for one in sorted(top.iterdir()) if top.is_dir() and not top.is_symlink() else []:
            if FULL_ID.fullmatch(one.name) if top.name in SCRATCH else DRAFT.search(one.name):
                with suppress(FileNotFoundError):  # a job removes its files when it is done
                    what = SCRATCH.get(top.name, "leftover files")
                    found = _sum_on_disk(one)
                    yield Thing(what, str(one), found.files, found.size, found.changed, one.name)


def _sum_on_disk(one: Path) -> _Sum:
    """The files of a folder, or one file, of the scratch folder. A file that was read counts as changed then."""
    found = _Sum(changed=one.lstat().st_mtime)
    for file in one.rglob("*") if one.is_dir() and not one.is_symlink() else iter([one]):
        with suppress(FileNotFoundError):
            if file.is_file() and not file.is_symlink():
                about = file.stat()
                found.add({"size": about.st_size, "mtime": max(about.st_mtime, about.st_atime)})
    return found
