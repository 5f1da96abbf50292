"""A file of certificates that cannot be read stops no process of the stack; one that can is handed on."""

import subprocess
import sys
from pathlib import Path

import certifi
import pytest

from infra.local.certificates import VARIABLE, certificate_notes, unusable_certificates
from infra.local.environment import process_environment, shell_lines
from infra.local.folders import Folders
from infra.local.stack_file import StackState


@pytest.mark.parametrize("kind", ["missing", "no certificates", "a folder"])
def test_one_that_cannot_be_used_is_left_out_and_told(
    kind: str, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "certificates"
    if kind == "a folder":
        path.mkdir()
    elif kind == "no certificates":
        path.write_text("nothing")
    monkeypatch.setenv(VARIABLE, str(path))
    environment = process_environment(folders, None, {})
    assert VARIABLE not in environment
    assert f"unset {VARIABLE}" in shell_lines(folders, StackState(id="x")).splitlines()
    (note,) = certificate_notes({VARIABLE: str(path)})
    assert f"{VARIABLE}={path} is not handed on to the stack (" in note
    made = [sys.executable, "-c", "import httpx; httpx.Client()"]  # as Prefect does when it is imported
    assert subprocess.run(made, env=environment, check=False).returncode == 0
    assert subprocess.run(made, env={**environment, VARIABLE: str(path)}, check=False, capture_output=True).returncode


def test_one_that_can_be_used_is_handed_on(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (certifi.where(), ""):
        monkeypatch.setenv(VARIABLE, path)
        assert process_environment(folders, None, {})[VARIABLE] == path
        assert unusable_certificates({VARIABLE: path}) == ""
        assert certificate_notes({VARIABLE: path}) == []
