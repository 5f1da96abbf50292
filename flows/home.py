"""Where the local stack and its runs keep their things.

Everything lies below one folder, `$AGEVLM_HOME` or `.agevlm` in the project's own folder, except Ray's temporary
folder where that path would be too long: Ray puts unix sockets there, and their paths are limited to 107 bytes.
"""

import hashlib
import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project's own folder."""

SOCKET_FOLDER_LENGTH = 40
"""Longest temporary folder for Ray: 107 bytes less '/session_<date>_<time>_<pid>/sockets/plasma_store'."""


def home() -> Path:
    """Folder of the stack's state, logs and databases."""
    return Path(os.environ.get("AGEVLM_HOME") or ROOT / ".agevlm").expanduser().resolve()


def store_root() -> str:
    """Root of the artifact store: `$AGEVLM_STORE` (a path or an fsspec URL) or `artifacts` in the home folder."""
    given = os.environ.get("AGEVLM_STORE")
    if given and "://" in given:
        return given
    return str(Path(given).expanduser().resolve() if given else home() / "artifacts")


def scratch() -> Path:
    """Folder for temporary files and the rendered miniature world."""
    return home() / "scratch"


def logs() -> Path:
    """Folder of the stack's log files, one per process."""
    return home() / "logs"


def prefect_home() -> Path:
    """Prefect's folder: its SQLite database and profiles."""
    return home() / "prefect"


def ray_token_file() -> Path:
    """File with the token that Ray's servers ask for; readable by its owner only."""
    return home() / "ray_token"


def ray_folder() -> Path:
    """Ray's temporary folder: in the home folder, in `$TMPDIR` or /tmp, the first that is short enough."""
    digest = hashlib.sha256(os.fsencode(home())).hexdigest()[:8]
    name = f"agevlm-ray-{os.getuid()}-{digest}"
    last = Path("/tmp") / name
    choices = (home() / "ray", Path(tempfile.gettempdir()) / name, last)
    return next((folder for folder in choices if len(os.fsencode(folder)) <= SOCKET_FOLDER_LENGTH), last)
