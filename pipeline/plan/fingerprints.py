"""Fingerprints of external inputs: raw data and pretrained weights. Their checksums are part of artifact ids."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Container
from pathlib import Path
from typing import IO, Any, cast

from model.errors import ConfigError, DataError
from model.teachers.weights.finite import FiniteCheck, Watched
from model.teachers.weights.header import Header
from model.teachers.weights.identify import identify
from pipeline.artifacts.atomic import write_text
from pipeline.artifacts.paths import PROJECT, is_url
from pipeline.artifacts.room import explained
from pipeline.artifacts.spec import digest
from pipeline.artifacts.store import sha256_of
from pipeline.artifacts.versions import library_versions
from pipeline.compute import hub
from pipeline.packing.config import TOKENIZER_FILES
from pipeline.plan.folder_listing import folder_stamp, listing, listing_of_store
from pipeline.plan.recipe import Dataset, Recipe, Weights
from pipeline.sources.config import FOLDERS, LOCATIONS, AnySource, FolderSource, MiniatureSource, identity
from pipeline.sources.files import is_file, is_folder
from pipeline.sources.metadata_files import metadata_files

MODEL = PROJECT / "model"
MINIATURE_WEIGHTS = MODEL / "miniature" / "weights"
MINIATURE_FOLDERS = {"florence": "florence2", "sam": "sam", "text": "llama", "vision": "convnext"}
TOKENIZER = "tokenizer"
"""Name of the fingerprint of the language backbone's tokenizer, among the external inputs of a recipe."""
WEIGHT_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".pth")
TEACHERS = frozenset({"florence", "sam"})
"""Roles whose files are told by their own rules."""
SHA256, NOT_FINITE = "sha256", "not_finite"
"""Keys of a cached checksum: the checksum, and the first tensor that has NaN or infinite numbers."""
RECENT_NS = 2_000_000_000
"""Nanoseconds. Two changes of a file within this time can leave equal times: the coarsest file systems keep 2 s."""


class Fingerprints:
    """Computes fingerprints. Checksums of files are cached below `scratch` and reused while a file is unchanged.

    Args:
        scratch: local folder.
        planning: True when a plan is made: then every image's size is looked at, once, even if several data sets share
            the folder. False for the checks of a step that was planned: then a folder is listed again only if a file
            was added, removed or renamed in it. A file that was overwritten in place has other bytes than the inventory
            says, which every step that reads it finds.
    """

    def __init__(self, scratch: Path, planning: bool = True) -> None:
        self._cache, self._planning, self._told = scratch / "fingerprints", planning, False
        self._listings: dict[str, str] = {}

    def weights(self, role: str, name: str) -> str:
        """Checksum of a weights file, or of all files of a weights folder; for hub weights their name with the commit.

        The headers of local weights are looked at first, in a fraction of a second; hub weights are looked at if they
        are in this machine's cache already, since a plan downloads nothing. With the checksum, which reads every byte
        once, all numbers are checked for NaN and infinity.

        Raises ConfigError if they are missing, cannot be read, are not those of the role, or are not all finite.
        """
        try:
            if hub.is_hub_name(name):
                if not hub.NAME.match(name):
                    raise ConfigError("write hub:ORG/NAME@COMMIT with the commit's 40 digits")
                if (cached := hub.cached_folder(name)) is not None:
                    identify(role, cached)
                return name
            path = weights_path(role, name)
            if not path.exists():
                others = "or the path of a checkpoint" if role == "sam" else "a path or hub:ORG/NAME@COMMIT"
                raise ConfigError(f"there is no {path}; give 'miniature', {others}")
            files = _weight_files(role, path) if path.is_dir() else [path]
            headers = identify(role, path).headers
            found = {f: self._weights_file(f, headers[f]) if f in headers else self.file(f) for f in files}
            return (
                digest({f.relative_to(path).as_posix(): s for f, s in found.items()}) if path.is_dir() else found[path]
            )
        except ConfigError as error:
            raise ConfigError(f"weights.{role} = '{name}': {error}") from error
        except OSError as error:
            raise ConfigError(f"weights.{role} = '{name}': {_explained(error)}; correct that, or the recipe") from error

    def _weights_file(self, path: Path, header: Header) -> str:
        """SHA-256 of a file of weights. Raises ConfigError if a number in it is not finite, OSError."""
        entry = self._entry(path, FiniteCheck(header))
        if entry[NOT_FINITE] is not None:
            raise ConfigError(
                f"{path.name} has NaN or infinite numbers, first in tensor {str(entry[NOT_FINITE])[:80]}; "
                "its training failed or the file is damaged: get it again, or give another checkpoint"
            )
        return str(entry[SHA256])

    def tokenizer(self, name: str) -> str:
        """Checksum of the files of a language backbone that a pack is made with; for hub weights name and commit.

        Other weights beside the same tokenizer make the same pack. For hub weights the commit stays, although another
        commit may have the same tokenizer: an id must not depend on the files that happen to be in this machine's
        cache, and a plan downloads nothing. Raises ConfigError if there is no tokenizer.json, or if a file cannot be
        read.
        """
        if hub.is_hub_name(name):
            return self.weights("text", name)
        folder = weights_path("text", name)
        files = [folder / file for file in TOKENIZER_FILES]
        if not files[0].is_file():
            raise ConfigError(f"weights.text = '{name}': there is no {files[0]}; save the fast tokenizer there")
        try:
            return digest({file.name: self.file(file) for file in files if file.is_file()})
        except OSError as error:
            raise ConfigError(f"weights.text = '{name}': {_explained(error)}; correct that, or the recipe") from error

    def source(self, dataset: str, source: AnySource) -> str:
        """Checksum of a raw data set: its annotation files, and names and sizes of its images. Raises DataError.

        On an object store the objects' versions (ETags) stand for their content.
        """
        if isinstance(source, MiniatureSource):
            code = {name: self.file(MODEL / "miniature" / name) for name in ("world.py", "language.py")}
            return digest({**code, **identity(source)})
        found: dict[str, str] = {}
        try:
            for name in LOCATIONS[source.kind]:
                place = getattr(source, name)
                if place is None:
                    continue
                if name in FOLDERS:
                    if not is_file(place) and not is_folder(place):
                        raise DataError(
                            f"data.{dataset}: image folder {place} does not exist; correct it in the recipe"
                        )
                    found[name] = self.folder(place)
                else:
                    if not is_file(place):
                        raise DataError(
                            f"data.{dataset}: annotation file {place} does not exist; correct it in the recipe"
                        )
                    found[name] = listing_of_store(place) if is_url(place) else self.file(Path(place))
            if isinstance(source, FolderSource):
                found |= {name: self.file(path) for name, path in metadata_files(source).items()}
            return digest(found)
        except OSError as error:
            raise DataError(f"data.{dataset}: {_explained(error)}; correct that, or the recipe") from error

    def folder(self, place: str) -> str:
        """Digest of the names and sizes in a folder (or of one archive), by path or URL. Raises OSError."""
        if place not in self._listings:
            self._listings[place] = listing_of_store(place) if is_url(place) else self._local_folder(Path(place))
        return self._listings[place]

    def _local_folder(self, folder: Path) -> str:
        entry = self._cache / f"listing-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()}.json"
        known = {} if self._planning else _read_entry(entry)
        if known and all(folder_stamp(folder, below) == stamp for below, stamp in known["folders"].items()):
            return str(known["listing"])
        started = time.time_ns()
        folders: dict[str, list[int]] = {}
        found = listing(folder, folders)
        # A folder that changed just now could change again under the same times.
        if folders and all(started - stamp[0] >= RECENT_NS for stamp in folders.values()):
            self._keep(entry, {"listing": found, "folders": folders})
        return found

    def file(self, path: Path) -> str:
        """SHA-256 of a file. Raises OSError.

        It is cached under the file's path, size, inode, modification time and change time (ctime, which programs
        cannot set). Not cached: a file that changed less than RECENT_NS ago, because it could change again under the
        same times, and a file that changed while it was read.
        """
        return str(self._entry(path)[SHA256])

    def _entry(self, path: Path, check: FiniteCheck | None = None) -> dict[str, Any]:
        """Checksum of a file and, if a check is given, the name of its first tensor that is not finite. Cached."""
        path = path.resolve()
        entry = self._cache / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
        now = time.time_ns()
        stamp, changed = _stamp(path)
        known = _read_entry(entry)
        if known.get("stamp") == stamp and SHA256 in known and (check is None or NOT_FINITE in known):
            return known
        with open(path, "rb") as stream:
            checksum, _ = sha256_of(stream if check is None else cast(IO[bytes], Watched(stream, check)))
        found = {"stamp": stamp, SHA256: checksum, **({} if check is None else {NOT_FINITE: check.bad})}
        if now - changed >= RECENT_NS and _stamp(path)[0] == stamp:
            self._keep(entry, found)
        return found

    def _keep(self, path: Path, entry: dict[str, Any]) -> None:
        """Write a cached checksum. A cache that cannot be written costs time: that is told once, and is no error."""
        try:
            write_text(path, json.dumps(entry))
        except OSError as error:
            if not self._told:
                print(
                    f"checksums are not kept, so the next plan reads all files again: {explained(error)}",
                    file=sys.stderr,
                )
            self._told = True

    def recipe(self, recipe: Recipe, wanted: Container[str]) -> dict[str, str]:
        """The wanted fingerprints of a recipe, by their `outside_names`; for the others just that name."""
        data: dict[str, Dataset] = dict(recipe.data)
        roles: dict[str, str] = dict(Weights.model_validate(recipe.weights))
        found = {name: name for name in outside_names(recipe)}
        found |= {n: self.source(k, d.source) for k, d in data.items() if (n := f"data.{k}") in wanted}
        found |= {n: self.weights(role, name) for role, name in roles.items() if (n := f"weights.{role}") in wanted}
        if TOKENIZER in wanted:
            found[TOKENIZER] = self.tokenizer(recipe.weights.text)
        installed = library_versions() if recipe.versions_in_ids else {}
        for name in recipe.versions_in_ids:
            if name not in installed:
                raise ConfigError(f"versions_in_ids: {name} is not installed here; install it, or leave it out")
            found[f"version.{name}"] = installed[name]
        return found


def outside_names(recipe: Recipe) -> list[str]:
    """A recipe's external inputs: its data sets, weights and tokenizer, and the library versions that it asks for.

    They are called 'data.NAME', 'weights.ROLE', 'tokenizer' and 'version.LIBRARY'.
    """
    data, roles = (f"data.{name}" for name, _ in recipe.data), (f"weights.{role}" for role, _ in recipe.weights)
    return [*data, *roles, TOKENIZER, *(f"version.{name}" for name in recipe.versions_in_ids)]


def weights_path(role: str, name: str) -> Path:
    """Local path of weights given as 'miniature' or a path, whether it exists or not."""
    return MINIATURE_WEIGHTS / MINIATURE_FOLDERS[role] if name == "miniature" else Path(name).resolve()


def _weight_files(role: str, folder: Path) -> list[Path]:
    """The files of a folder of weights. Raises ConfigError if the models can load none of them, OSError."""
    found = [Path(parent) / file for parent, _, files in os.walk(folder, onerror=_raise) for file in files]
    beside = {file.suffix for file in found if file.parent == folder}
    if ".safetensors" in beside or role in TEACHERS:
        return [file for file in found if file.suffix in WEIGHT_FILES]
    if ".bin" in beside:
        raise ConfigError(
            f"{folder} holds weights as .bin only, which are pickles and never loaded; give a folder or a hub revision "
            "that holds .safetensors"
        )
    raise ConfigError(f"{folder} holds no .safetensors file; give a folder that does")


def _stamp(path: Path) -> tuple[list[str | int], int]:
    """A value that differs if the file may have changed, and the time of its last change (ns; content or metadata)."""
    status = path.stat()
    stamp: list[str | int] = [str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    return stamp, max(status.st_mtime_ns, status.st_ctime_ns)


def _read_entry(path: Path) -> dict[str, Any]:
    """A cached checksum; empty if there is none or if its file is damaged."""
    try:
        entry = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _raise(error: OSError) -> None:
    raise error


def _explained(error: OSError) -> str:
    """'PATH cannot be read (REASON)', with bytes of the path that are not UTF-8 escaped."""
    path = os.fsencode(error.filename or "a file").decode("utf-8", "backslashreplace")
    return f"{path} cannot be read ({error.strerror or error})"
