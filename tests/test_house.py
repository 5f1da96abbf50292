"""The commands in the documents exist, and make and the scripts do what they promise."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from flows.cli.app import app

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
    commands = [command for command in app.registered_commands if command.callback]
    known = {command.name or command.callback.__name__.replace("_", "-") for command in commands}
    used = set(re.findall(r"(?:^ {4}|`|\$\()agevlm ([a-z-]+)", document.read_text(), re.MULTILINE))
    assert used <= known


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make as a user does. Started by make itself, it would also print its folder: those variables are removed."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    return subprocess.run(["make", *arguments], cwd=cwd, env=outside, capture_output=True, text=True, check=False)


def test_make_lists_every_command() -> None:
    listed = make().stdout
    names = {line.split()[0] for line in listed.splitlines()}
    assert names == makefile_targets() - {"help"} | {"help"}


def test_make_bench_runs_every_benchmark() -> None:
    names = {path.stem for path in (ROOT / "tests" / "bench").glob("[a-z]*.py")}
    assert "guidance" in names
    (loop,) = re.findall(r"for name in ([\w ]+); do \S+ -m tests\.bench \$name", make("-n", "bench").stdout)
    assert set(loop.split()) == names


def test_every_marker_is_one_that_tests_carry() -> None:
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    names = {marker.split(":")[0] for marker in markers}
    carried = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name in names if f"pytest.mark.{name}" in carried} == names
    commands = (ROOT / "Makefile").read_text()
    assert set(re.findall(r'-m "?(?:not )?(\w+)"? ?(?:--|$)', commands, re.MULTILINE)) - {"pytest"} <= names


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in a folder with a quote and a space in its name; its uv only makes a link to this Python."""
    found = tmp_path / "it's a clone"
    shutil.copytree(ROOT / "scripts", found / "scripts")
    shutil.copy(ROOT / "Makefile", found)
    (found / "requirements.lock").touch()
    (found / "flows").mkdir()
    (found / "flows" / "__main__.py").write_text("import sys\nprint('agevlm', *sys.argv[1:])")
    uv = found / "scripts" / "uv.sh"
    uv.write_text(
        '#!/bin/sh\necho "$BASE_PYTHON -- $*" >> uv.log\n'
        f"if [ \"$1\" = venv ]; then mkdir -p .venv/bin; ln -sf '{sys.executable}' .venv/bin/python; fi\n"
    )
    return found


def uv_log(clone: Path) -> list[str]:
    return (clone / "uv.log").read_text().splitlines()


def test_set_up_in_any_folder_and_again_after_a_move(clone: Path) -> None:
    first = make("setup", cwd=clone)
    assert first.returncode == 0, first.stderr
    command = subprocess.run([clone / ".venv" / "bin" / "agevlm", "x"], capture_output=True, text=True, check=True)
    assert command.stdout == "agevlm x\n"
    made, filled = uv_log(clone)
    base, arguments = made.split(" -- ")
    assert arguments == f"venv --quiet --clear --python {base} .venv"  # pip of the Python that was found installs uv
    assert Path(filled.split(" -- ")[0]).is_file()
    assert make("setup", cwd=clone).returncode == 0
    assert len(uv_log(clone)) == 2, "nothing is done twice"

    moved = clone.rename(clone.parent / "moved")
    assert make("up", cwd=moved).stdout.endswith("agevlm up\n")
    assert [line.split(" -- ")[1].split()[0] for line in uv_log(moved)] == ["venv", "pip", "venv", "pip"]


def test_another_python_is_used_with_a_note_if_there_is_no_other(clone: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sh", "dirname", "cat", "sed", "chmod", "mkdir", "ln"):
        (programs / name).symlink_to(str(shutil.which(name)))
    python = programs / "python3.13"
    said = "import sys; sys.version_info = ({}, 0)\n"
    (tmp_path / "sitecustomize.py").write_text(said.format("3, 12"))
    python.write_text(f"#!/bin/sh\nPYTHONPATH='{tmp_path}' exec '{sys.executable}' \"$@\"\n")
    python.chmod(0o755)
    (clone / "scripts" / "uv.sh").write_text(
        f"#!/bin/sh\nif [ \"$1\" = venv ]; then mkdir -p .venv/bin; ln -sf '{python}' .venv/bin/python; fi\n"
    )
    setup = [clone / "scripts" / "setup.sh"]
    environment = {"PATH": str(programs), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(setup, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    note = "note: the tests run with Python 3.11 and 3.13; they were not run with 3.12"
    assert note in done.stdout.splitlines()

    shutil.rmtree(clone / ".venv")
    (tmp_path / "sitecustomize.py").write_text(said.format("3, 10"))
    refused = subprocess.run(setup, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "Python 3.11 or newer is needed" in refused.stderr


def test_clean_ends_the_stack_first_or_deletes_nothing(clone: Path) -> None:
    (clone / ".agevlm").mkdir()
    (clone / ".agevlm" / "stack.json").touch()
    without = make("clean", cwd=clone)
    assert without.returncode != 0
    assert "make setup, then make clean" in without.stderr
    assert (clone / ".agevlm" / "stack.json").exists()

    make("setup", cwd=clone)
    program = clone / ".venv" / "bin" / "agevlm"
    program.write_text('#!/bin/sh\necho "$1 ${AGEVLM_HOME-}"; exit 1\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGEVLM_HOME", "/another/clone's")  # not used: clean ends the stack of the state that it deletes
        broken = make("clean", cwd=clone)
    assert broken.returncode != 0
    assert broken.stdout == "down \n"
    assert (clone / ".agevlm" / "stack.json").exists()

    program.write_text("#!/bin/sh\n")
    assert make("clean", cwd=clone).returncode == 0
    assert not (clone / ".agevlm").exists()


def test_clean_keeps_artifacts_and_only_its_own_word_removes_them(clone: Path) -> None:
    make("setup", cwd=clone)
    (clone / ".venv" / "bin" / "agevlm").write_text("#!/bin/sh\n")
    state = clone / ".agevlm"
    manifest = state / "artifacts" / "masks" / "miniature" / "0123" / "manifest.json"
    database = state / "prefect" / "prefect.db"
    for file in (manifest, database, state / "logs" / "ray.log", state / "scratch" / "x"):
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(3_000_000))
    cleaned = make("clean", cwd=clone)
    assert cleaned.returncode == 0, cleaned.stderr
    assert {path.name for path in state.iterdir()} == {"artifacts", "prefect"}
    assert manifest.exists()
    assert database.exists()
    assert re.search(r"2\.9M\s+\.agevlm/artifacts", cleaned.stdout)

    asked = make("clean-artifacts", cwd=clone)
    assert asked.returncode != 0
    assert re.search(r"2\.9M\s+\.agevlm/artifacts", asked.stdout)
    assert "1 artifacts" in asked.stdout
    assert "make clean-artifacts SURE=yes" in asked.stderr
    assert manifest.exists()

    assert make("clean-artifacts", "SURE=yes", cwd=clone).returncode == 0
    assert not state.exists()
    assert make("clean-artifacts", cwd=clone).stdout == "no artifacts in .agevlm\n"


@pytest.mark.parametrize("script", [".ci/run", "scripts/setup.sh", "scripts/test_newest.sh", "scripts/uv.sh"])
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


def test_the_lock_is_for_other_systems_too() -> None:
    text = (ROOT / "requirements.lock").read_text()
    linux_only = re.findall(r"^(?:nvidia|cuda|triton)[a-z0-9-]*==(.*)$", text, re.MULTILINE)
    assert linux_only
    assert all("sys_platform == 'linux'" in line for line in linux_only)


def test_hooks_need_nothing_from_outside() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
