"""Weights from a hub: 'hub:ORG/NAME@COMMIT' is downloaded into this machine's Hugging Face cache."""

import re
from collections.abc import Sequence
from pathlib import Path

from model.errors import ConfigError

PREFIX = "hub:"
NAME = re.compile(r"^hub:[\w.-]+/[\w.-]+@[0-9a-f]{40}$")


def is_hub_name(location: str) -> bool:
    """True if weights are given as a hub repository and not as a path."""
    return location.startswith(PREFIX)


def local_folder(role: str, location: str, files: Sequence[str] | None = None) -> Path:
    """The local folder of weights: a path is returned unchanged, a hub repository is downloaded first.

    Args:
        role: 'text', 'vision' or 'florence'; named in errors.
        location: a local path or 'hub:ORG/NAME@COMMIT'.
        files: patterns of the files that are needed; None for all.

    Raises ConfigError if the download fails.
    """
    if not is_hub_name(location):
        return Path(location)
    from huggingface_hub import snapshot_download

    name, commit = location.removeprefix(PREFIX).split("@")
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=None if files is None else list(files)))
    except Exception as error:  # network, authentication and naming errors of many types
        raise ConfigError(f"weights.{role} = '{location}' cannot be fetched: {error}; give a local folder") from error
