"""The command line: it answers at once, it helps, and a user's mistake gives no traceback."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.commands.run import parse_parameters
from flows.run.parameters import MASK_PARAMETERS
from infra.local.stack import LocalStack, RoleStatus
from model.errors import ConfigError
from pipeline.artifacts.paths import PROJECT
from pipeline.plan.recipe import Recipe, load_recipe
from tests.flows.cli.fixtures_command_line import agevlm

COMMANDS = [
    *("up", "status", "down", "env", "demo", "run", "report", "events", "recipes", "plan", "calibrate"),
    *("artifacts", "show", "lineage", "diff", "verify", "tag", "tags", "untag", "gc", "export"),
    *("compare", "gates", "stages", "ask", "check-alignment"),
]
GROUPS = ["Local stack", "Runs", "Plans", "Artifacts", "Masks", "Models"]
SLOW = ("prefect", "ray", "torch", "pyarrow", "transformers", "pandas")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AGEVLM_STORE", raising=False)


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys\nsys.argv = ['agevlm', '--help']\nfrom flows.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('SLOW:', [name for name in {SLOW!r} if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert output.strip().endswith("SLOW: []")
    for command in COMMANDS:
        assert re.search(rf"^\W*{command} ", output, re.MULTILINE), command


def test_the_help_lists_every_command_in_a_group_with_a_whole_sentence() -> None:
    output = agevlm("--help").output
    listed = re.findall(r"^  ([a-z-]+)  +(\S.*)$", output.split("Local stack:")[1], re.MULTILINE)
    assert sorted(name for name, _ in listed) == sorted(COMMANDS)
    assert [text for _, text in listed if not text.endswith(".") or text.endswith("..")] == []
    assert re.findall(r"^([A-Z][a-z ]+):$", output, re.MULTILINE)[1:] == GROUPS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(command: str) -> None:
    result = agevlm(command, "--help")
    assert result.code == 0
    assert len(result.output) > 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["env"], "start it with 'agevlm up'"),
        (["run", "agevlm/full-recipe"], "start it with 'agevlm up'"),
        (["run", "agevlm/full-recipe", "-p", "limit"], "write NAME=VALUE"),
        (["plan", "no-such-recipe"], "recipes are: miniature, paper, photos"),
        (["plan", "--variant", "agevlm"], "variants.0 = 'agevlm'"),
        (["plan", "--min-sam-iou", "2"], "min_sam_iou = 2.0"),
        (["plan", "--cluster", "3xABACUS"], "cluster '3xABACUS' is not known"),
        (["plan", "--cluster", "cpu", "--samples", "pretrain"], "write DATASET=N"),
        (["demo", "--recipe", "nothing"], "no such recipe"),
        (["show", "nothing"], "no artifact, tag or step is called 'nothing'"),
        (["ask", "abc", "no-such-image.png", "what?"], "no-such-image.png is not a file"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_1(arguments: list[str], words: str) -> None:
    result = agevlm(*arguments)
    assert result.code == 1
    assert words in result.error
    assert "Traceback" not in result.error


def test_trouble_with_a_file_is_a_message_too(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    result = agevlm("plan", "--json", str(tmp_path / "taken"))
    assert result.code == 1
    assert result.error.startswith("FileExistsError: ")
    assert "Traceback" not in result.error


def test_without_a_stack_status_says_so_and_down_has_nothing_to_do() -> None:
    status, down = agevlm("status"), agevlm("down")
    assert status.code == 1
    assert "is not up" in status.output
    assert (down.code, down.output.strip()) == (0, "nothing to end: the local stack is not up")


def test_status_shows_whole_addresses_and_logs_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    log = "/home/somebody/projects/agevlm/.agevlm/logs/prefect.log"
    rows = [RoleStatus("prefect", "Prefect server", 1234567, "not answering", "http://127.0.0.1:30178", log)]
    monkeypatch.setattr(LocalStack, "status", lambda stack: rows)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", agevlm("status").output)
    table = shown.split("The pages of")[0].splitlines()[1:]
    assert "http://127.0.0.1:30178" in table[0]
    assert "".join(line.split()[-1] for line in table) == log


def test_a_character_that_the_terminals_encoding_lacks_is_no_error(tmp_path: Path) -> None:
    home = {"AGEVLM_HOME": str(tmp_path / "b\u00fccher"), "PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-P", "-m", "flows", "status"]
    shown = subprocess.run(command, env={**os.environ, **home}, capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "b\\xfccher is not up" in shown.stdout


def test_recipes_are_listed() -> None:
    recipes = agevlm("recipes")
    assert recipes.code == 0
    assert re.search(r"^miniature +ca_baseline, age_vlm, age_vlm_lm", recipes.output, re.MULTILINE)


def test_recipes_say_how_long_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(name: str) -> Recipe:
        known = {"expected_minutes": 8.0, "expected_gib": 0.5} if name == "miniature" else {}
        return load_recipe(name).model_copy(update={"expected_minutes": None, "expected_gib": None, **known})

    monkeypatch.setattr("pipeline.plan.recipe.load_recipe", measured)
    listed = agevlm("recipes").output
    assert re.search(r"^miniature .* 8 min +0\.5 GiB ", listed, re.MULTILINE)
    assert re.search(r"^paper .* - +- ", listed, re.MULTILINE)


def test_plan_has_every_mask_parameter_as_an_option() -> None:
    listed = agevlm("plan", "--help").output
    for name in MASK_PARAMETERS:
        assert f"--{name.replace('_', '-')} " in listed


def test_plan_shows_costs_of_a_recipe_whose_data_are_not_here() -> None:
    told = agevlm("plan", "paper", "--cluster", "8xA100-80G", "--explain")
    assert told.code == 0, told.error
    assert "ids are not known, so every step counts as to run: data.pretrain" in told.output
    assert re.search(r"^stage4 +to run +10\.0M +2\.56B +60\.\d EFLOP", told.output, re.MULTILINE)
    assert "does not fit: stage" not in told.output, "the paper's recipe fits the cards that it names"
    assert "AdamW: 2 x 4 bytes x 1,682,671,808 trained parameters" in told.output
    smaller = agevlm("plan", "paper", "--cluster", "8xRTX4090-24G")
    assert smaller.code == 0, smaller.error
    assert "does not fit: stage1 needs" in smaller.output


def test_costs_are_json_too(tmp_path: Path) -> None:
    told = agevlm("plan", "--cluster", "cpu", "--samples", "pretrain=400", "--json", str(tmp_path))
    assert told.code == 0, told.error
    found = json.loads((tmp_path / "costs.json").read_text())
    stage = next(step for step in found["steps"] if step["key"] == "stage1")
    assert stage["figures"]["samples"]["value"] == 16 * (7 * (400 - 20) // 16)
    assert stage["figures"]["peak"]["unit"] == "bytes"
    assert all(figure["how"] for figure in stage["figures"].values())


def test_stages_are_counted_column_by_column() -> None:
    stages = agevlm("stages")
    adapter, cross = "7,344,128", "243,286,016"
    for line in (
        rf"^stage1 +frozen +{adapter} +{cross} +frozen +250,630,144 +LM ",
        rf"^stage3 +last stage 61,612,032 +{adapter} +{cross} +frozen +312,242,176 +LM \+ guidance ",
        rf"^stage4_lm +196,227,264 +{adapter} +{cross} +1,235,814,400 +1,682,671,808 +LM \+ guidance ",
    ):
        assert re.search(line, stages.output, re.MULTILINE)
    other = agevlm("stages", str(PROJECT / "model" / "miniature" / "weights" / "llama"))
    assert other.code == 1
    assert "holds a 'llama', not an AGE-VLM" in other.error


def test_parameters_are_json_or_text() -> None:
    assert parse_parameters(["limit=50", "recipe=miniature", 'variants=["age_vlm"]', "prompt=a=b", "x="]) == {
        "limit": 50,
        "recipe": "miniature",
        "variants": ["age_vlm"],
        "prompt": "a=b",
        "x": "",
    }
    with pytest.raises(ConfigError, match="given twice"):
        parse_parameters(["limit=1", "limit=2"])


def test_the_launcher_runs_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()  # a folder of that name must not hide the project's
    (tmp_path / "flows" / "__init__.py").write_text("raise SystemExit('the wrong flows')")
    script = (PROJECT / "scripts" / "setup.sh").read_text()
    launcher = script.split("<<LAUNCHER\n")[1].split("LAUNCHER\n")[0].replace("\\$@", "$@")
    program = tmp_path / "agevlm"
    program.write_text(launcher.replace("$root/.venv/bin/python", sys.executable).replace("$root", str(PROJECT)))
    program.chmod(0o755)
    result = subprocess.run([str(program), "recipes"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "miniature" in result.stdout
