"""Every command in the documents is run, or is parsed and has a reason why it is not run."""

import inspect
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.cli.app import app
from flows.cli.commands.run import parse_parameters
from pipeline.artifacts.paths import PROJECT
from pipeline.plan.recipe import available
from tests.documents.fixtures_commands import RULES, Command, all_commands, rule_of
from tests.documents.fixtures_recipe import write_recipe
from tests.flows.cli.fixtures_command_line import agevlm

COMMANDS = all_commands()
BUILT_IN = ("eval", "export", "source")
FROM_THE_SYSTEM = ("pip", "sudo", "apt-get", "ssh", "wc")
"""Programs that need not be here: uv made the environment, and a reader's machine is another one."""


def of(where: str) -> list[Command]:
    found = [command for command in COMMANDS if (rule := rule_of(command)) is not None and rule.where == where]
    return list({command.text: command for command in found}.values())


def test_every_command_is_covered() -> None:
    uncovered = [f"{command.document}: {command.text}" for command in COMMANDS if rule_of(command) is None]
    assert not uncovered, "add a rule to fixtures_commands.py, or correct the command:\n" + "\n".join(uncovered)


def test_every_rule_is_used_and_every_command_that_is_not_run_has_a_reason() -> None:
    used = {rule for command in COMMANDS if (rule := rule_of(command)) is not None}
    assert [rule.pattern for rule in RULES if rule not in used] == []
    assert all(rule.reason for rule in RULES if rule.where == "parsed")


def test_the_pages_of_this_release_have_commands() -> None:
    having = {command.document for command in COMMANDS}
    names = ("quickstart", "your-data", "paper-recipe", "rerun-masks", "add-a-source", "operate", "troubleshooting")
    assert {f"{name}.md" for name in names} <= having


def test_commands_that_need_no_stack_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AGEVLM_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path)
    commands = of("here")
    assert commands
    for command in commands:
        program, *arguments = command.words
        if program == "cp":
            shutil.copy(PROJECT / arguments[0], tmp_path / arguments[1])
            continue
        if program == "sed":  # the deployments, with another pool
            script, target = arguments[0], tmp_path / Path(arguments[-1]).name
            with target.open("wb") as out:
                subprocess.run([program, script, str(PROJECT / arguments[1])], stdout=out, check=True)
            pools = [entry["work_pool"]["name"] for entry in yaml.safe_load(target.read_text())["deployments"]]
            assert set(pools) == {target.stem}
            continue
        result = agevlm(*arguments)
        assert result.code == 0, f"{command.document}: {command.text}\n{result.output}{result.error}"
        assert result.output.strip()


@pytest.mark.parametrize("command", of("parsed") + of("stack"), ids=lambda command: command.text)
def test_commands_parse(command: Command) -> None:
    program, *arguments = command.words
    if program == "agevlm":
        parse_agevlm(arguments)
    elif program == "make":
        assert re.search(rf"^{re.escape(arguments[0])}:", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    elif program == "prefect" and arguments[:2] == ["deployment", "run"]:
        given = [value for flag, value in pairwise(arguments) if flag in ("-p", "--param")]
        check_run(arguments[2], given)
    elif program == "python" and arguments[0] == "-m":
        path = PROJECT.joinpath(*arguments[1].split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
        if arguments[1] == "tests.bench" and arguments[2].islower():
            assert (PROJECT / "tests" / "bench" / f"{arguments[2]}.py").is_file()
    else:
        assert program in (*BUILT_IN, *FROM_THE_SYSTEM) or (Path(sys.executable).parent / program).exists()


def parse_agevlm(arguments: list[str]) -> None:
    """Parse as the command line does: names and types of all options. Raises typer's usage errors."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    command = commands[arguments[0]]
    context = command.make_context(arguments[0], list(arguments[1:]))
    if arguments[0] == "run":
        check_run(context.params["deployment"], context.params["param"] or [])


def check_run(deployment: str, parameters: list[str]) -> None:
    """The deployment is in prefect.yaml, and its flow has these parameters; a recipe by name is a shipped one."""
    flow, name = deployment.split("/")
    entries = {entry["name"]: entry for entry in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]}
    file, function = entries[name]["entrypoint"].split(":")
    module = __import__(file.removesuffix(".py").replace("/", "."), fromlist=[function])
    found = getattr(module, function)
    assert found.name == flow
    given = parse_parameters(parameters)
    assert set(given) <= set(inspect.signature(found.fn).parameters) | set(found.parameters.properties)
    recipe = given.get("recipe")
    if isinstance(recipe, str) and not recipe.endswith(".yaml"):
        assert recipe in available()


def test_a_command_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse_agevlm(shlex.split("plan miniature --no-such-option 1"))
    with pytest.raises(KeyError):
        parse_agevlm(["no-such-command"])
    with pytest.raises(AssertionError):
        check_run("agevlm/full-recipe", ["no_such_parameter=1"])
    assert rule_of(Command("x.md", "rm -rf /")) is None
