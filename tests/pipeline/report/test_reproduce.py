"""The command on the page is the one that makes the run again, and the page says what else that takes."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.recipe import Recipe, load_recipe
from pipeline.report.collect import Run, collect
from pipeline.report.origin import Origin, origin_of
from pipeline.report.reproduce import conditions, flow_command, parameters
from tests.pipeline.report.fabric import Fabric

START = "prefect deployment run agevlm/full-recipe -p recipe="
BASE = f"{START}miniature"
GATES = "-p min_polygon_score=0.0 -p min_sam_iou=0.5 -p min_agreement_iou=0.3 -p min_area=0.0005 -p max_area=0.95"


def run_of(root: Path, recipe: Recipe, until: str = "masks", weights: dict[str, str] | None = None) -> Run:
    """A run of a recipe's steps up to this one."""
    fabric = Fabric(root, recipe, scenes=6)
    fabric.fingerprints |= weights or {}
    steps = fabric.plan().until(until)
    return collect(recipe.name, recipe.variants, {f"{s.step.kind}/{s.key}": fabric.make(s) for s in steps})


def told(run: Run, miniature_weights: dict[str, str] | None = None) -> tuple[str, Origin, str]:
    """The command, the origin and what the page says of it."""
    origin = origin_of(run, miniature_weights or {})
    return flow_command(run, origin), origin, " ".join(conditions(run, origin))


def edited(**fields: Any) -> Recipe:
    """The miniature recipe's file with some top-level fields changed by hand."""
    return Recipe.model_validate(load_recipe("miniature").model_dump(mode="json") | fields)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, BASE),
        ({"variants": ["age_vlm"]}, f"{BASE} -p 'variants=[\"age_vlm\"]'"),
        ({"gates": {"min_sam_iou": 0.75}}, f"{BASE} -p min_sam_iou=0.75"),
        (
            {"limit": 50, "teacher": {"prompt": "Where is {query}?", "beams": 3}},
            f"{BASE} -p 'prompt=Where is {{query}}?' -p beams=3 -p limit=50",
        ),
    ],
)
def test_what_was_typed_beside_the_recipe_is_typed_again(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    command, origin, _ = told(run_of(tmp_path, load_recipe("miniature").override(**changes)))
    assert command == expected
    assert origin.shipped


def test_an_edited_recipe_with_the_shipped_name_is_not_the_shipped_one(tmp_path: Path) -> None:
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["training"]["stages"]["stage4"]["max_steps"] = 5
    raw["data"]["pretrain"]["subset"] = 4
    recipe = edited(seed=7, training=raw["training"], data=raw["data"], teacher=raw["teacher"] | {"batch_queries": 3})
    command, origin, words = told(run_of(tmp_path, recipe, until="stage4_lm"))
    assert not origin.shipped
    assert command.startswith(f"{START}PATH/OF/miniature.yaml -p 'variants=[")
    assert GATES in command
    assert set(origin.differences) == {
        "seed = 7 (shipped: 0)",
        "data.pretrain.subset = 4 (shipped: 240)",
        "teacher.batch_queries = 3 (shipped: 16)",
        "training.stages.stage4.max_steps = 5 (shipped: 120)",
    }
    assert "differs from the miniature.yaml that ships with the project in: " in words
    assert "Its file is needed" in words
    assert all(difference in words for difference in origin.differences)


def test_limits_that_a_flow_cannot_give_are_differences(tmp_path: Path) -> None:
    data = load_recipe("miniature").model_dump(mode="json")["data"]
    data["pretrain"]["limit"] = 9
    _, origin, _ = told(run_of(tmp_path, edited(data=data), until="stage4_lm"))
    assert origin.differences == ("data.pretrain.limit = 9 (shipped: None)",)


def test_other_weights_than_the_shipped_ones_are_differences(tmp_path: Path) -> None:
    run = run_of(tmp_path, load_recipe("miniature"), until="stage1", weights={"weights.text": "other"})
    _, origin, words = told(run, {"text": "ours", "vision": run.steps[-1].params["vision"]})
    assert origin.differences == ("weights.text = other weights than 'miniature'",)
    assert "weights.text other" in words
    assert told(run, {})[1].shipped  # what cannot be known is not held against it


def test_a_recipe_of_ones_own_needs_its_file_and_keeps_what_was_typed(tmp_path: Path) -> None:
    recipe = edited(name="mine").override(limit=4, gates={"min_sam_iou": 0.9})
    command, origin, words = told(run_of(tmp_path, recipe))
    assert not origin.shipped
    assert command.startswith(f"{START}PATH/OF/mine.yaml -p 'variants=[")
    for expected in ("-p limit=4", "-p min_sam_iou=0.9", "-p min_area=0.0005", "-p beams=1", "-p max_new_tokens=64"):
        assert f" {expected}" in command
    assert "No recipe \u201cmine\u201d ships with the project: its file is needed" in words


@pytest.mark.parametrize("recipe", ["miniature", "mine"])
def test_the_command_makes_the_very_same_ids(recipe: str, tmp_path: Path) -> None:
    """What the flow resolves from the printed parameters is the recipe that ran."""
    from flows.parameters import resolve

    ran = edited(name=recipe).override(variants=["age_vlm"], limit=4, gates={"max_area": 0.5}, teacher={"beams": 2})
    fabric = Fabric(tmp_path, ran, scenes=6)
    run = run_of(tmp_path, ran)
    typed = dict(origin_of(run, {}).typed)
    variants, limit = typed.pop("variants", None), typed.pop("limit", None)
    again = resolve("miniature", variants=variants, limit=limit, masks=typed)  # type: ignore[arg-type]
    fabric.recipe = again
    assert {s.key: s.id for s in fabric.plan().until("masks")} == {v.key: v.id for v in run.steps}


def test_data_and_weights_at_locations_are_told_by_their_checksums(tmp_path: Path) -> None:
    run = run_of(tmp_path, load_recipe("photos"))
    words = told(run, {"sam": "miniature-sam"})[2]
    assert "data.pretrain pretrain-raw" in words
    assert told(run_of(tmp_path / "rendered", load_recipe("miniature")))[2].count("data.") == 0


def test_every_parameter_is_read_back_and_no_location(tmp_path: Path) -> None:
    words = parameters(run_of(tmp_path, load_recipe("miniature"), until="stage4_lm"))
    for expected in ("masks-pretrain:", "min_agreement_iou: 0.3", "learning_rate: 0.001", "row: stage4_lm"):
        assert expected in words
    assert str(tmp_path) not in words
