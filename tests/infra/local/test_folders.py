"""The paths of a stack lie in its home, and Ray's temporary folder is short enough for its sockets."""

import os
import tempfile
from pathlib import Path

import pytest

from infra.local.folders import SOCKET_FOLDER_LENGTH, Folders


def in_home(home: str) -> Folders:
    return Folders(project=Path("/project"), home=Path(home), store="/store")


def test_everything_lies_below_the_home() -> None:
    folders = in_home("/h")
    assert folders.prefect.parent == folders.logs.parent == folders.secret.parent == Path("/h")
    assert folders.state_file == Path("/h/stack.json")


@pytest.mark.parametrize("length", [3, 200])
def test_socket_paths_stay_short_enough(length: int) -> None:
    folder = in_home(f"/{'d' * length}").ray
    longest = folder / "session_2026-11-22_20-14-02_077769_1300612" / "sockets" / "plasma_store"
    assert len(os.fsencode(longest)) <= 107
    assert in_home(f"/{'d' * length}e").ray != folder  # two homes never share Ray's folder


@pytest.mark.parametrize("temporary", ["/tmp", "/scratch", "/" + "t" * 60])
def test_a_long_temporary_folder_is_not_used(temporary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", temporary)
    folder = in_home("/" + "d" * 60).ray
    # The folder in between is for its owner only: Ray opens its own one to all users.
    assert folder.parent.parent == Path(temporary if len(temporary) < 20 else "/tmp")
    assert folder.parent.name.startswith(f"agevlm-ray-{os.getuid()}-")
    assert len(os.fsencode(folder)) <= SOCKET_FOLDER_LENGTH
