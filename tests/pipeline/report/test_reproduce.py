"""The page shows the command that started the run, its recipe, and what else a repetition needs."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from prefect.cli._utilities import load_json_key_values

from pipeline.plan.recipe import Recipe, load_recipe
from pipeline.report.collect import Run, collect
from pipeline.report.reproduce import Reproduction, flow_command, reproduction
from tests.pipeline.report.fixtures_artifacts import Fabric

COMMAND = {
    "deployment": "agevlm/full-recipe",
    "parameters": {"recipe": "miniature", "variants": ["age_vlm"], "min_sam_iou": 0.75},
    "recipe": "name: miniature # <as it was>\n",
}


def run_of(root: Path, recipe: Recipe, until: str = "masks") -> Run:
    """A run of a recipe's steps up to this one."""
    fabric = Fabric(root, recipe, scenes=6)
    steps = fabric.plan().until(until)
    return collect(recipe.name, recipe.variants, {f"{s.step.kind}/{s.key}": fabric.make(s) for s in steps})


def told(run: Run, command: dict[str, Any] | None = None, weights: dict[str, str] | None = None) -> Reproduction:
    return reproduction(run, command, "f" * 64, weights or {})


def test_the_command_and_the_recipe_are_those_that_were_recorded(tmp_path: Path) -> None:
    found = told(run_of(tmp_path, load_recipe("miniature")), COMMAND)
    command, purpose = found.commands[0]
    assert command == (
        "prefect deployment run agevlm/full-recipe -p recipe=miniature -p 'variants=[\"age_vlm\"]' -p min_sam_iou=0.75"
    )
    assert purpose == "started this run; steps whose artifacts exist are not run again"
    assert found.recipe == COMMAND["recipe"]
    forced = COMMAND | {"parameters": {"force": ["masks"]}}
    assert (
        "makes these steps again" in told(run_of(tmp_path / "forced", load_recipe("miniature")), forced).commands[0][1]
    )


@pytest.mark.parametrize(
    "value",
    [
        *("miniature", "Where is {query}?", "{query}", "[x]", "5", "5 things", "true", ""),
        *('say "x"', "a\\b", "it's", "\u00e9", None, 3, 0.5, True, ["age_vlm"], {"a": 1}),
    ],
)
def test_the_shell_and_prefect_read_back_every_value(value: Any) -> None:
    command = flow_command({"deployment": "d/e", "parameters": {"prompt": value}})
    *_, flag, word = shlex.split(command)
    assert flag == "-p"
    assert load_json_key_values([word], "parameter") == {"prompt": value}
    assert json.loads(json.dumps(value)) == value


def test_a_step_that_was_run_by_hand_has_no_command(tmp_path: Path) -> None:
    found = told(run_of(tmp_path, load_recipe("miniature")))
    assert all(command.startswith("agevlm ") for command, _ in found.commands)
    assert "no command is recorded" in found.notes[0]
    assert found.recipe == ""
    assert "masks-pretrain:" in found.parameters


def test_data_and_weights_from_outside_are_named_with_their_checksums(tmp_path: Path) -> None:
    photos = run_of(tmp_path, load_recipe("photos").override(teacher={"kind": "florence_sam"}))
    words = told(photos, COMMAND).notes[0]
    assert "data.pretrain pretrain-raw" in words
    assert f"weights.sam {photos.get('segments', 'pretrain').params['sam'][:12]}" in words  # type: ignore[union-attr]
    assert (
        "weights.sam" not in told(photos, COMMAND, {"sam": photos.get("segments", "pretrain").params["sam"]}).notes[0]
    )  # type: ignore[union-attr]
    rendered = told(run_of(tmp_path / "rendered", load_recipe("miniature")), COMMAND)
    assert "data." not in " ".join(rendered.notes)


def test_every_parameter_is_read_back_and_no_location(tmp_path: Path) -> None:
    words = told(run_of(tmp_path, load_recipe("miniature"), until="stage4_lm")).parameters
    for expected in ("masks-pretrain:", "min_agreement_iou: 0.3", "learning_rate: 0.001", "row: stage4_lm"):
        assert expected in words
    assert str(tmp_path) not in words


def test_what_the_steps_were_made_with_is_named(tmp_path: Path) -> None:
    found = told(run_of(tmp_path, load_recipe("miniature"))).made_with
    assert found["git commit"] == ["a" * 40]
    assert {"device", "host", "torch", "python"} <= found.keys()
