"""The worker: what its start is given."""

import stat
from pathlib import Path

import pytest

from infra.local.folders import Folders
from infra.local.places import prepare_places
from infra.local.roles import worker as role
from infra.local.stack_file import StackError, StackState


def test_its_temporary_folder_is_shared_with_no_other_user(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect makes a folder of a fixed name there: in /tmp that of the first user stops the worker of the second."""
    given: dict[str, str] = {}

    def spawn(folders: Folders, role: str, command: list[str], state: StackState, extra: dict[str, str]) -> None:
        given.update(extra)

    monkeypatch.setattr(role, "spawn", spawn)
    prepare_places(folders)
    role.start(folders, StackState(id="x", worker="w"))
    folder = Path(given["TMPDIR"])
    assert folder == folders.worker_temporary
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    folder.symlink_to("/tmp")
    with pytest.raises(StackError, match="is a link"):
        role.start(folders, StackState(id="x", worker="w"))
    folder.unlink()
