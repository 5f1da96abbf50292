"""Checksums of files, and the check that an artifact's files are what its manifest says."""

import hashlib
from dataclasses import dataclass
from typing import IO, Any

from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.spec import ArtifactRef, short

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


def check_files(fs: Any, folder: str, manifest: Manifest) -> list[Problem]:
    """Hash every file of a data folder again. Returns an empty list if all match the manifest.

    Args:
        fs: the file system of the store.
        folder: full path of the data folder.
        manifest: of the artifact.
    """
    problems = []
    for entry in manifest.files:
        try:
            with fs.open(f"{folder}/{entry.path}", "rb") as stream:
                found, size = sha256_of(stream)
        except FileNotFoundError:
            problems.append(Problem(manifest.ref, entry.path, "is missing"))
            continue
        except OSError as error:  # a folder in its place, no permission, a bad disk
            problems.append(Problem(manifest.ref, entry.path, f"cannot be read ({error.strerror or error})"))
            continue
        if size != entry.size:
            problems.append(Problem(manifest.ref, entry.path, f"has {size} bytes, not {entry.size}"))
        elif found != entry.sha256:
            problems.append(Problem(manifest.ref, entry.path, f"has sha256 {short(found)}, not {short(entry.sha256)}"))
    return problems
