"""The folder that an export makes: checked before the work, and its errors as one message."""

import os
import re
from pathlib import Path

from model.errors import ConfigError
from pipeline.artifacts.paths import is_url
from pipeline.artifacts.room import FULL, room_text

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""Beginning of a URL that became a path, which has no '//'."""


def refuse_target(target: Path, store_root: str) -> None:
    """Raise ConfigError unless `target` can be a new folder outside of the store: it is missing or an empty folder."""
    if URL.match(str(target)):
        raise ConfigError(f"'{target}' reads as a URL; give a folder of this machine, and copy it from there")
    try:
        inside = not is_url(store_root) and target.resolve().is_relative_to(Path(store_root).resolve())
        free = not os.path.lexists(target) or (
            target.is_dir() and not target.is_symlink() and not any(target.iterdir())
        )
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a name that cannot be one
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"'{target}' cannot be looked at ({reason}); give another folder") from error
    if inside:
        raise ConfigError(f"'{target}' is in the artifact store {store_root}; give a folder outside of it")
    if not free:
        raise ConfigError(f"'{target}' exists and is not an empty folder; give a new name, or move it away first")


def cannot_write(target: Path, error: OSError) -> ConfigError:
    """The error for a folder that could not be written, with the room on its disk if it is full."""
    room = f", {room_text(str(target))}" if error.errno in FULL else ""
    return ConfigError(f"'{target}' cannot be written ({error.strerror or error}{room}); give another folder")
