"""Folders of state and artifacts: the only place that reads `$AGEVLM_HOME` and `$AGEVLM_STORE`."""

import os
from collections.abc import Mapping
from pathlib import Path

from model.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[2]
"""The project's root folder."""
HOME = "AGEVLM_HOME"
STORE = "AGEVLM_STORE"


def is_url(root: str) -> bool:
    """True if a store's root is an fsspec URL (`s3://bucket/prefix`) and not a local path."""
    return "://" in root


def home_folder(env: Mapping[str, str] = os.environ) -> Path:
    """`$AGEVLM_HOME`, or `.agevlm` in the project's folder: state, logs and scratch files."""
    return _absolute(HOME, env.get(HOME) or str(PROJECT / ".agevlm"))


def scratch_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Local folder for temporary files, downloads and the rendered miniature world; no other machine reads it."""
    return home_folder(env) / "scratch"


def store_root(env: Mapping[str, str] = os.environ) -> str:
    """Root of the artifact store: `$AGEVLM_STORE` (a local path or fsspec URL), or `artifacts` in the home folder."""
    given = env.get(STORE)
    if given and is_url(given):
        return given
    return str(_absolute(STORE, given) if given else home_folder(env) / "artifacts")


def _absolute(variable: str, text: str) -> Path:
    """A path from a variable. Raises ConfigError if it starts with the `~` of nobody."""
    try:
        return Path(text).expanduser().resolve()
    except RuntimeError as error:  # no such user, or this user has no home folder
        raise ConfigError(
            f"{variable}={text}: {text.split('/')[0]} is nobody's home folder; give a whole path"
        ) from error
