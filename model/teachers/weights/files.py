"""Open a file or folder of weights and read its header; say by name what a file is that holds no weights."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from model.errors import ConfigError
from model.teachers.weights import safetensors_file, torch_zip
from model.teachers.weights.header import Bounded, Header

HEAD_BYTES = 512
SAFETENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"
MOST_JSON = 16 * 2**20
"""Bytes of a configuration or an index."""


@dataclass(frozen=True)
class StandIn:
    """A kind of file that often lies where weights should be."""

    what: str
    pattern: re.Pattern[bytes]
    """Matches the first bytes."""


STAND_INS = (
    StandIn("an empty file; the download failed: get it again", re.compile(rb"\Z")),
    StandIn(
        "a Git-LFS pointer, not the file itself: run `git lfs pull` in its repository, or download the file",
        re.compile(rb"version https://(git-lfs|hawser)\."),
    ),
    StandIn(
        "a web page, not the file itself (a download that needs a login, or a wrong link): download the file",
        re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE),
    ),
)
PICKLES = (
    StandIn("a pickle of the old torch format, which is never loaded", re.compile(rb"\x80.\x8a\x0al\xfc\x9cF\xf9")),
    # A .safetensors file can begin alike: with the length of its header, of which the upper five bytes are zero.
    StandIn("a pickle, which is never loaded", re.compile(rb"\x80[\x00-\x05](?!.\0{5}\{)", re.DOTALL)),
    StandIn("a tar archive of the oldest torch format, which is never loaded", re.compile(rb".{257}ustar", re.DOTALL)),
)
FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[Bounded], Header]], ...] = (
    (torch_zip.looks_like, torch_zip.read),
    (safetensors_file.looks_like, safetensors_file.read),
)


def read_header(path: Path) -> Header:
    """The header of a file of weights. Raises ConfigError saying what the file is instead, OSError."""
    with open(path.resolve(), "rb") as stream:  # resolved, so that an error names what is missing behind a link
        head = _head(stream)
        for kind in (*STAND_INS, *PICKLES):
            if kind.pattern.match(head):
                raise ConfigError(f"it is {kind.what}")
        for looks_like, read in FORMATS:
            if looks_like(head):
                return read(Bounded(stream))
    raise ConfigError("it is neither a .safetensors file nor a .pth file of torch.save, or it is damaged")


def refuse_stand_in(path: Path) -> None:
    """Raise ConfigError if a file of a weights folder is a pointer, a web page or empty. OSError if unreadable."""
    with open(path.resolve(), "rb") as stream:
        head = _head(stream)
    for kind in STAND_INS:
        if kind.pattern.match(head):
            raise ConfigError(f"{path.name} is {kind.what}")


def read_folder(folder: Path) -> dict[str, Header]:
    """The headers of a folder's weights by file name: of model.safetensors, or of the files that its index names.

    Raises ConfigError if there are none or if an index does not fit its files, OSError.
    """
    if os.path.lexists(folder / SAFETENSORS):
        return {SAFETENSORS: _in_folder(folder, SAFETENSORS)}
    if not (folder / INDEX).is_file():
        raise ConfigError(f"it has neither {SAFETENSORS} nor {INDEX}")
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise ConfigError(f"{INDEX} is damaged (no weight_map)")
    found: dict[str, Header] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ConfigError(f"{INDEX} names the file '{file[:80]}', which is no .safetensors file of this folder")
        if not os.path.lexists(folder / file):
            raise ConfigError(f"{INDEX} names the file {file[:80]}, which is missing; download it too")
        found[file] = _in_folder(folder, file)
    absent = [name for name, file in places.items() if name not in found[file].tensors]
    if absent:
        raise ConfigError(f"{INDEX} names {len(absent)} tensors that its files lack, first {absent[0][:80]}")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError, OSError."""
    refuse_stand_in(path)
    with open(path, "rb") as stream:
        content = stream.read(MOST_JSON + 1)
    try:
        found = json.loads(content) if len(content) <= MOST_JSON else None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} is damaged ({str(error)[:80]}); get it again") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path.name} is damaged (no object of JSON); get it again")
    return found


def _in_folder(folder: Path, file: str) -> Header:
    try:
        return read_header(folder / file)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _head(stream: IO[bytes]) -> bytes:
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    return head
