"""The temporary folder (`TMPDIR`) of the stack's processes.

Ray's dashboard and Python's multiprocessing create unix sockets there, and the path of a socket is limited to 107
bytes. So a folder with a long path is reached by a short link. Large temporary files still go to the user's folder.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from infra.local.folders import Folders

LONGEST = 60
"""Bytes of a temporary folder's path: '/pymp-<8>/listener-<8>' and similar names follow."""


def temporary_variables(folders: Folders, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`TMPDIR` for a process of the stack: the user's folder, or the link to it; {} if theirs cannot be used."""
    given = env.get("TMPDIR", "")
    if not given or problem_of(given):
        return {}
    folder = os.path.abspath(given)
    if len(os.fsencode(folder)) <= LONGEST:
        return {"TMPDIR": folder}
    link = folders.temporary_link
    return {"TMPDIR": str(link)} if link.is_symlink() and os.readlink(link) == folder else {}


def problem_of(folder: str) -> str:
    """The reason why a temporary folder cannot be used; '' if it can."""
    path = Path(folder)
    if not path.is_dir():
        return "is not a folder" if path.exists() else "does not exist"
    return "" if os.access(path, os.W_OK | os.X_OK) else "is not writable"


def link_temporary_folder(folders: Folders, env: Mapping[str, str] = os.environ) -> str:
    """Make the link to the user's temporary folder if its path is long. Returns a note for the user, or ''.

    Ray's folder must exist. Raises OSError.
    """
    given, link = env.get("TMPDIR", ""), folders.temporary_link
    link.unlink(missing_ok=True)
    if not given:
        return ""
    if problem := problem_of(given):
        return f"TMPDIR={given} {problem}: the stack uses the system's temporary folder"
    folder = os.path.abspath(given)
    if len(os.fsencode(folder)) > LONGEST:
        link.symlink_to(folder)
    return ""
