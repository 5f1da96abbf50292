"""The command on the page is the one that makes the run again."""

from pathlib import Path

import pytest

from pipeline.recipe import Recipe, load_recipe
from pipeline.report.collect import Run, collect
from pipeline.report.reproduce import flow_command, parameters
from tests.pipeline.report.fabric import Fabric

BASE = "prefect deployment run agevlm/full-recipe -p recipe=miniature"


def run_of(root: Path, recipe: Recipe, until: str = "masks") -> Run:
    """A run of a recipe's steps up to this one."""
    fabric = Fabric(root, recipe, scenes=6)
    steps = fabric.plan().until(until)
    return collect(recipe.name, recipe.variants, {f"{s.step.kind}/{s.key}": fabric.make(s) for s in steps})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, BASE),
        ({"variants": ["age_vlm"]}, f"{BASE} -p 'variants=[\"age_vlm\"]'"),
        ({"gates": {"min_sam_iou": 0.75}}, f"{BASE} -p min_sam_iou=0.75"),
        (
            {"limit": 50, "teacher": {"prompt": "Where is {query}?", "beams": 3}},
            f"{BASE} -p limit=50 -p 'prompt=Where is {{query}}?' -p beams=3",
        ),
    ],
)
def test_what_was_typed_beside_the_recipe_is_typed_again(
    changes: dict[str, object], expected: str, tmp_path: Path
) -> None:
    recipe = load_recipe("miniature").override(**changes)  # type: ignore[arg-type]
    assert flow_command(run_of(tmp_path, recipe)) == expected


def test_a_recipe_of_ones_own_is_given_by_its_path(tmp_path: Path) -> None:
    recipe = load_recipe("miniature").model_copy(update={"name": "mine"})
    assert "-p recipe=PATH/OF/mine.yaml" in flow_command(run_of(tmp_path, recipe))


def test_every_parameter_is_read_back_and_no_location(tmp_path: Path) -> None:
    told = parameters(run_of(tmp_path, load_recipe("miniature"), until="stage4_lm"))
    for expected in ("masks-pretrain:", "min_agreement_iou: 0.3", "learning_rate: 0.001", "row: stage4_lm"):
        assert expected in told
    assert str(tmp_path) not in told
