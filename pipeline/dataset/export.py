"""An artifact as a folder for others: its Parquet files, a card, the manifest and the lineage. Whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from model.errors import ArtifactError, ConfigError
from pipeline.artifacts.atomic import new_folder
from pipeline.artifacts.export_target import cannot_write, refuse_target
from pipeline.artifacts.lineage import lineage
from pipeline.artifacts.manifest import ASIDE, FileEntry
from pipeline.artifacts.room import room_text, size_words
from pipeline.artifacts.store import CHUNK, Artifact
from pipeline.dataset.card import configs, write_card
from pipeline.dataset.kinds import KINDS, Kind

CARD, MANIFEST, LINEAGE = "README.md", "manifest.json", "lineage.json"
PRIVATE = ("host", "job", "origin")
"""Fields of a manifest's provenance that are not published."""
SPARE = 64 << 20
"""Bytes that must be left on the disk."""


def export_dataset(artifact: Artifact, target: Path) -> list[str]:
    """Write the folder `target`; returns the lines to print. Every file's checksum is compared while it is copied.

    Raises ConfigError if the artifact's kind has no such form, or if `target` cannot be made; ArtifactError if a file
    is not what was published. Then there is no new folder.
    """
    kind = KINDS.get(artifact.ref.kind)
    if kind is None:
        raise ConfigError(
            f"{artifact.ref} cannot be exported as a data set; kinds that can are {', '.join(KINDS)}, and checkpoint"
        )
    refuse_target(target, artifact.store.root)
    entries = [entry for entry in artifact.manifest.files if not entry.path.startswith(ASIDE)]
    _refuse_full_disk(target, sum(entry.size for entry in entries))
    try:
        with new_folder(target.absolute()) as folder:
            for entry in entries:
                _copy(artifact, entry, folder)
            for name, value in ((MANIFEST, public_manifest(artifact)), (LINEAGE, _lineage(artifact))):
                text = json.dumps(value, indent=2, sort_keys=True) + "\n"
                (folder / name).write_text(text, encoding="utf-8")
            (folder / CARD).write_text(_card(artifact, kind, folder), encoding="utf-8")
            written = folder.stat()
    except OSError as error:
        raise cannot_write(target, error) from error
    # new_folder keeps a folder that another program filled meanwhile; that one is not this export.
    if not os.path.samestat(written, target.stat()):
        raise ConfigError(f"'{target}' was filled by another program meanwhile and was left alone; give another folder")
    size = sum(entry.size for entry in entries)
    return [
        f"{target}: {len(entries)} files of {artifact.ref.path}, {size / 1e6:,.1f} MB, every checksum compared",
        f"open it with datasets.load_dataset({str(target)!r}); its licence is not known: see {CARD}",
    ]


def public_manifest(artifact: Artifact) -> dict[str, Any]:
    """The manifest without the names of hosts and jobs and the URLs of servers, and so without the digest of itself."""
    value: dict[str, Any] = artifact.manifest.model_dump(mode="json")
    for field in PRIVATE:
        value["provenance"].pop(field, None)
    return value | {"content_sha256": artifact.manifest.content_sha256}


def _lineage(artifact: Artifact) -> dict[str, Any]:
    """Every artifact that this one was made from, without its list of files; and those that are gone or replaced."""
    made: dict[str, Any] = {}
    trouble: set[str] = set()
    for node in lineage(artifact.store, artifact):
        if node.trouble:
            trouble.add(f"{node.ref.path} {node.trouble}")
        elif node.artifact is not None and node.ref.path not in made:
            made[node.ref.path] = {k: v for k, v in public_manifest(node.artifact).items() if k != "files"}
    return {"artifact": artifact.ref.path, "made_from": made, "trouble": sorted(trouble)}


def _card(artifact: Artifact, kind: Kind, folder: Path) -> str:
    try:
        return write_card(artifact, kind, configs(artifact, folder, kind))
    except pa.ArrowException as error:
        raise ArtifactError(f"{artifact.ref}: a Parquet file of it is damaged ({error})") from error


def _copy(artifact: Artifact, entry: FileEntry, folder: Path) -> None:
    target = folder / entry.path
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"{artifact.ref}: the path of its file '{entry.path}' leads out of the folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher, size = hashlib.sha256(), 0
    try:
        with _reading(artifact, entry):
            source = artifact.open(entry.path)
        with source, open(target, "xb") as copy:
            while True:
                with _reading(artifact, entry):
                    block = source.read(CHUNK)
                if not block:
                    break
                hasher.update(block)
                size += len(block)
                copy.write(block)
    except FileExistsError as error:
        raise ArtifactError(f"{artifact.ref}: its manifest lists the file {entry.path} twice") from error
    if (hasher.hexdigest(), size) != (entry.sha256, entry.size):
        raise ArtifactError(f"{artifact.ref}: its file {entry.path} is not what was published; see 'agevlm verify'")


@contextmanager
def _reading(artifact: Artifact, entry: FileEntry) -> Iterator[None]:
    """Tell an error of the store from one of the new folder."""
    try:
        yield
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"
        raise ArtifactError(f"{artifact.ref}: its file {entry.path} {what}; see 'agevlm verify'") from error


def _refuse_full_disk(target: Path, size: int) -> None:
    existing = next(
        (folder for folder in [target.absolute(), *target.absolute().parents] if os.path.isdir(folder)), Path("/")
    )
    if shutil.disk_usage(existing).free < size + SPARE:
        raise ConfigError(
            f"'{target}' needs {size_words(size + SPARE)}, but {room_text(str(target))}; free some, or give another one"
        )
