"""`agevlm ask` and `check-alignment` pass their arguments unchanged to another Python process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli.commands.student import ask, check_alignment
from model.errors import ConfigError, DataError
from tests.pipeline.fixtures_finished_run import Chain


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


def test_a_checkpoint_is_passed_on_and_a_recipe_as_its_guided_stages(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path / "store"))
    chain = Chain(tmp_path / "store", "age_vlm_lm")
    monkeypatch.setattr("flows.run.preparation.planner", lambda recipe, settings: lambda attempts: chain.plan)
    head = [sys.executable, "-P", "-m", "pipeline.student.check_alignment", "--rows", "4", "--draw", "3"]
    for name in ("abc", "miniature"):
        with pytest.raises(typer.Exit):
            check_alignment(name, rows=4, draw=3, json=False, save=None)
    assert started[0] == [*head, "--", "abc"]
    assert started[1][: len(head)] == head
    stages = [json.loads(text) for text in started[1][len(head) + 1 :: 2]]
    assert [stage["row"] for stage in stages] == ["stage3", "stage4_lm"]
    assert stages[1]["pack"]["id"] == chain.plan["pack-instruct"].id
    assert stages[1]["student"]["id"] == chain.plan["stage3"].id
    chain.remove("masks-pretrain")
    chain.remove("masks-instruct")
    with pytest.raises(ConfigError, match="nothing to check yet: stage3 needs masks-pretrain; stage4_lm needs masks-"):
        check_alignment("miniature", rows=4, draw=3, json=False, save=None)


def test_a_recipe_without_a_guided_stage_is_refused(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path / "store", "ca_baseline")
    monkeypatch.setattr("flows.run.preparation.planner", lambda recipe, settings: lambda attempts: chain.plan)
    with pytest.raises(ConfigError, match="has no guided stage"):
        check_alignment("miniature", rows=4, draw=3, json=False, save=None)
    assert started == []
