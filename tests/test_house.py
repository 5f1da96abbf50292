"""What the documents say can be typed, can be typed."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from flows.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_commands_in_documents_exist(document: Path) -> None:
    used = set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
    assert used
    assert used <= makefile_targets()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_agevlm_commands_in_documents_exist(document: Path) -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    used = set(re.findall(r"(?:^ {4}|`|\$\()agevlm ([a-z]+)", document.read_text(), re.MULTILINE))
    assert used <= known


def test_make_lists_every_command() -> None:
    # As a user types it, also where this test is itself started by make, whose child would announce its folder.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    listed = subprocess.run(["make"], cwd=ROOT, env=outside, capture_output=True, text=True, check=True).stdout
    names = {line.split()[0] for line in listed.splitlines()}
    assert names == makefile_targets() - {"help"} | {"help"}


@pytest.mark.parametrize("script", [".ci/run", "scripts/setup.sh", "scripts/uv.sh"])
def test_scripts_are_executable_bash(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_ci_hides_nothing_and_runs_the_readmes_commands() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    parts = re.findall(r"^part make ([a-z-]+)", text, re.MULTILINE)
    assert [p for p in parts if p in ("check", "test", "demo", "test-system")] == [
        "check",
        "test",
        "demo",
        "test-system",
    ]
    assert "/dev/null" not in text
    assert "|| true" not in text


def test_the_lock_names_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?://|--index-url|--extra-index-url|--find-links", text)
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE))
    assert {"prefect", "ray", "torch", "pytest", "ruff"} <= locked


def test_hooks_need_nothing_from_outside() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
