"""Fingerprints of what comes from outside: raw data and pretrained weights. Their checksums enter the ids."""

import hashlib
import json
import os
import re
from pathlib import Path

from model.errors import ConfigError, DataError
from pipeline.artifacts.spec import digest
from pipeline.artifacts.store import sha256_of
from pipeline.recipe import Dataset, Recipe, Weights
from pipeline.sources.config import CambrianSource, FolderSource, MiniatureSource, identity

MINIATURE_WEIGHTS = Path(__file__).resolve().parent.parent / "model" / "miniature" / "weights"
MINIATURE_FOLDERS = {"florence": "florence2", "sam": "sam", "text": "llama", "vision": "convnext"}
WEIGHT_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".pth")
HUB = re.compile(r"^hub:[\w.-]+/[\w.-]+@[0-9a-f]{40}$")


class Fingerprints:
    """Computes fingerprints; checksums of large files are kept in `cache` and reused while size and time stand."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def weights(self, role: str, name: str) -> str:
        """Checksum of a backbone's folder or file, or the hub name with its commit. Raises ConfigError."""
        if name.startswith("hub:"):
            if not HUB.match(name):
                raise ConfigError(f"weights.{role} = '{name}': write hub:ORG/NAME@COMMIT with the commit's 40 digits")
            return name
        path = weights_location(role, name)
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in WEIGHT_FILES)
        if not files:
            raise ConfigError(f"weights.{role} = '{name}': {path} holds no weight files; give a folder that does")
        return digest({str(f.relative_to(path)) if path.is_dir() else f.name: self.file(f) for f in files})

    def source(self, dataset: str, source: CambrianSource | FolderSource | MiniatureSource) -> str:
        """Checksum of a raw data set: its annotation files, and names and sizes of its images. Raises DataError."""
        if isinstance(source, MiniatureSource):
            world = Path(__file__).resolve().parent.parent / "model" / "miniature"
            code = {name: self.file(world / name) for name in ("world.py", "language.py")}
            return digest({**code, **identity(source)})
        if isinstance(source, CambrianSource):
            annotations = [source.annotations]
        else:
            annotations = [path for path in (source.captions, source.instances) if path]
        for path in annotations:
            if not Path(path).is_file():
                raise DataError(f"data.{dataset}: annotation file {path} does not exist; correct it in the recipe")
        if not Path(source.images).is_dir():
            raise DataError(f"data.{dataset}: image folder {source.images} does not exist; correct it in the recipe")
        return digest(
            {"annotations": [self.file(Path(path)) for path in annotations], "images": listing(Path(source.images))}
        )

    def file(self, path: Path) -> str:
        """SHA-256 of a file, cached by path, size and modification time."""
        path = path.resolve()
        status = path.stat()
        entry = self._cache / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json"
        stamp = [str(path), status.st_size, status.st_mtime_ns]
        try:
            known = json.loads(entry.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            known = {}
        if known.get("stamp") == stamp:
            return str(known["sha256"])
        with open(path, "rb") as stream:
            checksum, _ = sha256_of(stream)
        self._cache.mkdir(parents=True, exist_ok=True)
        partial = entry.with_suffix(f".{os.getpid()}.part")
        partial.write_text(json.dumps({"stamp": stamp, "sha256": checksum}))
        os.replace(partial, entry)
        return checksum

    def recipe(self, recipe: Recipe) -> dict[str, str]:
        """Every fingerprint that a plan of this recipe needs, by 'data.NAME' and 'weights.ROLE'."""
        data: dict[str, Dataset] = dict(recipe.data)
        roles: dict[str, str] = dict(Weights.model_validate(recipe.weights))
        return {
            **{f"data.{name}": self.source(name, dataset.source) for name, dataset in data.items()},
            **{f"weights.{role}": self.weights(role, name) for role, name in roles.items()},
        }


def weights_location(role: str, name: str) -> Path:
    """Local path of weights given as 'miniature' or a path. Raises ConfigError if it does not exist."""
    path = MINIATURE_WEIGHTS / MINIATURE_FOLDERS[role] if name == "miniature" else Path(name).resolve()
    if not path.exists():
        raise ConfigError(f"weights.{role} = '{name}': {path} does not exist; give 'miniature', a path or hub:...")
    return path


def listing(folder: Path) -> str:
    """Digest of the names and sizes of all files below a folder, without opening them."""
    hasher = hashlib.sha256()
    for root, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(root) / file
            hasher.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\n".encode())
    return hasher.hexdigest()
