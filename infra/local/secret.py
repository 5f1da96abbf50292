"""The secret of a home: one random text that Prefect's and Ray's servers both ask for."""

import os
import secrets
import shlex
from pathlib import Path

from infra.local.folders import Folders


def make_secret(path: Path) -> None:
    """Write the secret, unless it exists. Only its owner can read it."""
    if path.exists():
        path.chmod(0o600)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))


def read_secret(folders: Folders) -> str:
    """The secret of this home, or '' if its file is gone; the servers then refuse every request."""
    try:
        return folders.secret.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""


def secret_hint(folders: Folders) -> str:
    """A few words on how to read the secret that the servers' pages ask for; never the secret itself."""
    path = shlex.quote(str(folders.secret))
    if not folders.secret.exists():
        return f"asks for a secret, but {path} is gone: end the stack with 'agevlm down' and start it again"
    return f"asks once for the secret: cat {path}"
