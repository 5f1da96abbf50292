"""The folders of a stack, checked before anything starts: names that a program cannot take, rights, and room."""

import os
import sys
import tempfile
from pathlib import Path

from infra.local.folders import Folders
from infra.local.roles.ray import make_ray_folder
from infra.local.stack_file import StackError
from infra.local.temporary import link_temporary_folder, problem_of

MEBIBYTE = 1 << 20
HOME_BYTES = 256 * MEBIBYTE
"""Room that the home folder must have: Prefect's database, logs, and the scratch files of a small run."""
RAY_BYTES = 256 * MEBIBYTE
"""Room that Ray's temporary folder must have: logs and sockets."""
TEMPORARY_BYTES = 16 * MEBIBYTE
"""Room that the user's temporary folder must have: without any, Prefect's database fails at its start."""
INODES = 2000
"""Files that must still fit on each disk."""


def prepare_places(folders: Folders) -> list[str]:
    """Check the folders, and make the links that stand for names which Ray cannot take. Returns notes for the user.

    Raises StackError if the stack cannot work in these folders, with the path and the remedy.
    """
    check_places(folders)
    try:
        note = link_temporary_folder(folders)
        if not folders.python.startswith(sys.prefix):
            folders.python_link.unlink(missing_ok=True)
            folders.python_link.symlink_to(sys.prefix)
    except OSError as error:
        raise StackError(f"{folders.ray} cannot be written ({error}); it is a folder of the stack's own") from error
    return [note] if note else []


def check_places(folders: Folders) -> None:
    """Raise StackError if the stack cannot work in these folders, with the path and the remedy."""
    _check_name(folders.project, "the project's folder", ":", "move the project, and run 'make setup' there")
    # '?' starts the options in the address of Prefect's SQLite database.
    _check_name(folders.home, "the home folder", "?", "set AGEVLM_HOME to another path")
    if "://" not in folders.store:
        _check_name(Path(folders.store), "the store", "", "set AGEVLM_STORE to another path")
    if folders.home == folders.project:
        raise StackError(
            f"AGEVLM_HOME={folders.home} is the project's folder, where the stack's files would lie among its sources; "
            f"set it to a folder of its own, for example {folders.home / '.agevlm'}"
        )
    _check_room(folders.home, "AGEVLM_HOME", HOME_BYTES)
    make_ray_folder(folders.ray)
    in_home = folders.ray.is_relative_to(folders.home)
    _check_room(folders.ray, "AGEVLM_HOME" if in_home else "TMPDIR", RAY_BYTES)
    if "://" not in folders.store:
        _check_room(Path(folders.store), "AGEVLM_STORE", 0)
    given = os.environ.get("TMPDIR", "")
    if given and not problem_of(given):
        _check_room(Path(given), "TMPDIR", TEMPORARY_BYTES)


def _check_name(path: Path, what: str, refused: str, remedy: str) -> None:
    text = str(path)
    bad = sorted({character for character in text if character in refused or not character.isprintable()})
    if bad:
        names = " and ".join(ascii(character) for character in bad)
        raise StackError(f"{what} {text!a} has {names} in its path, which its programs cannot take; {remedy}")


def _check_room(folder: Path, variable: str, needed: int) -> None:
    """Raise StackError if a folder cannot be made or written, or if its disk lacks room."""
    remedy = f"make room there, or set {variable} to a folder on another disk"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        status = os.statvfs(folder)
        free = status.f_frsize * status.f_bavail
        if free < needed:
            raise StackError(
                f"{folder} needs {needed // MEBIBYTE} MiB, but its disk has only {free // MEBIBYTE} MiB free; {remedy}"
            )
        if status.f_files and status.f_favail < INODES:
            raise StackError(
                f"{folder} needs room for {INODES} files, but its disk has only {status.f_favail} inodes free; {remedy}"
            )
        with tempfile.TemporaryFile(dir=folder, prefix="agevlm-probe-") as probe:  # os.access knows no quota
            probe.write(bytes(4096))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise StackError(
            f"{folder} cannot be written ({error.strerror or error}); correct that, or set {variable} to a folder that "
            "you may write"
        ) from error
