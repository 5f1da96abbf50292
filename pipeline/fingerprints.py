"""Fingerprints of what comes from outside: raw data and pretrained weights. Their checksums enter the ids."""

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from model.errors import ConfigError, DataError
from pipeline.artifacts.spec import digest
from pipeline.artifacts.store import sha256_of
from pipeline.recipe import Dataset, Recipe, Weights
from pipeline.sources.config import LOCATIONS, CambrianSource, FolderSource, MiniatureSource, identity

MODEL = Path(__file__).resolve().parent.parent / "model"
MINIATURE_WEIGHTS = MODEL / "miniature" / "weights"
MINIATURE_FOLDERS = {"florence": "florence2", "sam": "sam", "text": "llama", "vision": "convnext"}
WEIGHT_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".pth")
SINGLE_FILES = frozenset({"sam"})
"""Roles whose weights may be one file (.pth or .safetensors); the others need a folder."""
HUB = re.compile(r"^hub:[\w.-]+/[\w.-]+@[0-9a-f]{40}$")
RECENT_NS = 2_000_000_000
"""Nanoseconds. Changes of a file that are closer may leave the same times: the coarsest file systems keep 2 s."""


class Fingerprints:
    """Computes fingerprints; checksums of files are kept in the folder `cache` and reused while the files stand."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def weights(self, role: str, name: str) -> str:
        """Checksum of a backbone's file, or of its folder's files, or the hub name with its commit.

        Raises ConfigError if they are missing, cannot be read, or are not in a form that is ever loaded.
        """
        if name.startswith("hub:"):
            if not HUB.match(name):
                raise ConfigError(f"weights.{role} = '{name}': write hub:ORG/NAME@COMMIT with the commit's 40 digits")
            return name
        try:
            path = weights_path(role, name)
            if not path.exists():
                raise ConfigError(f"weights.{role} = '{name}': there is no {path}; give 'miniature', a path or hub:...")
            if path.is_dir():
                return digest({f.relative_to(path).as_posix(): self.file(f) for f in _weight_files(role, name, path)})
            if role not in SINGLE_FILES:
                raise ConfigError(f"weights.{role} = '{name}': {path} is a file; give the folder that it lies in")
            return self.file(path)
        except OSError as error:
            raise ConfigError(f"weights.{role} = '{name}': {_explained(error)}; correct that, or the recipe") from error

    def source(self, dataset: str, source: CambrianSource | FolderSource | MiniatureSource) -> str:
        """Checksum of a raw data set: its annotation files, and names and sizes of its images. Raises DataError."""
        if isinstance(source, MiniatureSource):
            code = {name: self.file(MODEL / "miniature" / name) for name in ("world.py", "language.py")}
            return digest({**code, **identity(source)})
        names = [name for name in LOCATIONS[source.kind] if name != "images" and getattr(source, name)]
        annotations = {name: Path(getattr(source, name)) for name in names}
        try:
            for path in annotations.values():
                if not path.is_file():
                    raise DataError(f"data.{dataset}: annotation file {path} does not exist; correct it in the recipe")
            if not Path(source.images).is_dir():
                raise DataError(
                    f"data.{dataset}: image folder {source.images} does not exist; correct it in the recipe"
                )
            files = {name: self.file(path) for name, path in annotations.items()}
            return digest({"annotations": files, "images": listing(Path(source.images))})
        except OSError as error:
            raise DataError(f"data.{dataset}: {_explained(error)}; correct that, or the recipe") from error

    def file(self, path: Path) -> str:
        """SHA-256 of a file. Raises OSError.

        It is remembered for the file's path, size, inode, and times of modification and of change: the last cannot be
        set by a program. A file that changed less than RECENT_NS ago could change once more under the same times, and
        one that changes while it is read has no checksum, so of those nothing is remembered.
        """
        path = path.resolve()
        entry = self._cache / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
        now = time.time_ns()
        stamp, changed = _stamp(path)
        known = _read_entry(entry)
        if known.get("stamp") == stamp:
            return str(known["sha256"])
        with open(path, "rb") as stream:
            checksum, _ = sha256_of(stream)
        if now - changed >= RECENT_NS and _stamp(path)[0] == stamp:
            self._cache.mkdir(parents=True, exist_ok=True)
            partial = entry.with_suffix(f".{uuid.uuid4().hex}.part")
            partial.write_text(json.dumps({"stamp": stamp, "sha256": checksum}))
            os.replace(partial, entry)
        return checksum

    def recipe(self, recipe: Recipe, wanted: Container[str]) -> dict[str, str]:
        """The wanted fingerprints of a recipe, by 'data.NAME' and 'weights.ROLE'; the others are their own names."""
        data: dict[str, Dataset] = dict(recipe.data)
        roles: dict[str, str] = dict(Weights.model_validate(recipe.weights))
        found = {name: name for name in outside_names(recipe)}
        found |= {n: self.source(k, d.source) for k, d in data.items() if (n := f"data.{k}") in wanted}
        found |= {n: self.weights(role, name) for role, name in roles.items() if (n := f"weights.{role}") in wanted}
        return found


def cache_folder(root: str, scratch: str) -> Path:
    """Where checksums are remembered: in the store, or in the scratch folder of a store that is not local."""
    return Path(scratch if "://" in root else root) / "fingerprints"


def outside_names(recipe: Recipe) -> list[str]:
    """What a recipe takes from outside: 'data.NAME' of each data set, 'weights.ROLE' of each backbone and teacher."""
    return [f"data.{name}" for name, _ in recipe.data] + [f"weights.{role}" for role, _ in recipe.weights]


def weights_path(role: str, name: str) -> Path:
    """Local path of weights given as 'miniature' or a path, whether it exists or not."""
    return MINIATURE_WEIGHTS / MINIATURE_FOLDERS[role] if name == "miniature" else Path(name).resolve()


def listing(folder: Path) -> str:
    """Digest of the names below a folder and of its files' sizes, without opening them. Raises OSError.

    Not cached: a folder's times tell nothing of a file in it that is written in place, so that nothing less than a
    look at every file is correct.
    """
    hasher = hashlib.sha256()
    for entry in _entries(os.fsencode(folder)):
        hasher.update(b"".join(part + b"\0" for part in entry))  # no name has a zero byte
    return hasher.hexdigest()


def _entries(root: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Path, kind, and size or target of all that lies below a folder, in an order that is the same on every system.

    What may not be looked at is there by name, so that the digest is another one when it can be read.
    """
    real_root = os.path.realpath(root)
    waiting = [b""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(os.path.join(root, prefix)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except PermissionError:
            if not prefix:
                raise
            yield prefix, b"unreadable", b""
            continue
        below = []
        for entry in entries:
            path = prefix + entry.name
            try:
                if entry.is_symlink():
                    yield path, *_link(entry.path, real_root)
                elif entry.is_dir(follow_symlinks=False):
                    below.append(path + b"/")
                elif entry.is_file(follow_symlinks=False):
                    yield path, b"file", b"%d" % entry.stat(follow_symlinks=False).st_size
                else:
                    yield path, b"special", b""
            except PermissionError:
                yield path, b"unreadable", b""
        waiting += reversed(below)


def _link(path: bytes, real_root: bytes) -> tuple[bytes, bytes]:
    """What a link is to the reader of images, who follows it below the root only, wherever the root lies."""
    target = os.path.realpath(path)
    if os.path.commonpath([real_root, target]) != real_root:
        return b"link out", b""
    return b"link", os.path.relpath(target, real_root)


def _weight_files(role: str, name: str, folder: Path) -> list[Path]:
    """The files of a folder of weights. Raises ConfigError if none of them is what the models load, OSError."""
    found = [Path(parent) / file for parent, _, files in os.walk(folder, onerror=_raise) for file in files]
    beside = {file.suffix for file in found if file.parent == folder}
    if ".safetensors" in beside:
        return [file for file in found if file.suffix in WEIGHT_FILES]
    if ".bin" in beside:
        raise ConfigError(
            f"weights.{role} = '{name}': {folder} holds weights as .bin only, which are pickles and never loaded; "
            "convert them to safetensors (transformers' save_pretrained writes them), or get a revision that has them"
        )
    raise ConfigError(f"weights.{role} = '{name}': {folder} holds no .safetensors file; give a folder that does")


def _stamp(path: Path) -> tuple[list[str | int], int]:
    """What is another if a file may be another, and when it last changed in any way (nanoseconds)."""
    status = path.stat()
    stamp: list[str | int] = [str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    return stamp, max(status.st_mtime_ns, status.st_ctime_ns)


def _read_entry(path: Path) -> dict[str, Any]:
    """A remembered checksum; empty if there is none, or a power loss left half of it."""
    try:
        entry = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _raise(error: OSError) -> None:
    raise error


def _explained(error: OSError) -> str:
    """'PATH cannot be read (REASON)', printable whatever bytes the path has."""
    path = os.fsencode(error.filename or "a file").decode("utf-8", "backslashreplace")
    return f"{path} cannot be read ({error.strerror or error})"
