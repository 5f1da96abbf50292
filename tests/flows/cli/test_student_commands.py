"""`agevlm ask` passes its arguments unchanged to another Python process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli.commands.student import ask
from model.errors import DataError


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been started; each of them ends with exit code 3."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_question_may_begin_with_a_dash(started: list[list[str]], tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(b"")
    with pytest.raises(typer.Exit) as ended:
        ask("abc", image, "--mass", tmp_path / "map.png")
    assert ended.value.exit_code == 3
    head = [sys.executable, "-P", "-m", "pipeline.student.ask"]
    assert started == [[*head, "--map", str(tmp_path / "map.png"), "--", "abc", str(image), "--mass"]]


def test_a_name_that_cannot_be_a_file_is_no_file(started: list[list[str]]) -> None:
    with pytest.raises(DataError, match="is not a file"):
        ask("abc", Path("x" * 5000), "What?")
    assert started == []
