"""The flows' flat parameters: documented, with the recipe's limits, and the same in every flow."""

import inspect
from typing import Annotated, Any, get_args, get_type_hints

import jsonschema
import pytest
import typer
from prefect.utilities.callables import parameter_schema
from typer.testing import CliRunner

from flows.full_recipe import full_recipe
from flows.mask_generation import mask_generation
from flows.run.parameters import MASK_PARAMETERS, resolve, with_mask_parameters
from flows.training import stages
from model.errors import ConfigError
from pipeline.masks.config import MaskGates, TeacherConfig
from pipeline.plan.planner import Plan, mask_recipe, plan
from pipeline.plan.recipe import Recipe
from tests.pipeline.plan.test_planner import FINGERPRINTS

FLOWS = [full_recipe, mask_generation, stages]
MASKS = set(MASK_PARAMETERS)


def schema(flow: Any) -> dict[str, Any]:
    return parameter_schema(flow.fn).model_dump()


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_parameter_says_what_it_is_and_has_a_default(flow: Any) -> None:
    for name, field in schema(flow)["properties"].items():
        assert len(field.get("description", "")) > 15, f"{name} has no text for the UI"
        assert "default" in field, f"{name} must be optional: the deployment runs without parameters"


def test_masks_are_asked_for_in_the_same_words_by_both_flows() -> None:
    full, alone = schema(full_recipe)["properties"], schema(mask_generation)["properties"]
    assert set(full) >= MASKS
    assert set(alone) >= MASKS
    for name in MASKS:
        assert {k: v for k, v in full[name].items() if k != "position"} == {
            k: v for k, v in alone[name].items() if k != "position"
        }


def test_every_gate_is_a_parameter() -> None:
    assert set(MaskGates.model_fields) <= MASKS
    assert MASKS - set(MaskGates.model_fields) <= set(TeacherConfig.model_fields)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_sam_iou": 1.5},
        {"min_area": -0.1},
        {"beams": 0},
        {"beams": "many"},
        {"max_new_tokens": 5000},
        {"sam_prompt": "lasso"},
        {"task": "caption"},
        {"multimask": "often"},
        {"variants": ["age_vln"]},
        {"variants": []},
        {"limit": 0},
        {"force": "masks-pretrain"},
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_the_server_before_anything_runs(wrong: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema(full_recipe))


def test_right_values_pass() -> None:
    right = {"recipe": "miniature", "variants": ["age_vlm"], "min_sam_iou": 0.7, "beams": 2, "force": ["stage1"]}
    jsonschema.validate(right, schema(full_recipe))


def test_given_values_replace_the_recipes_and_none_leaves_them() -> None:
    plain = resolve("miniature")
    given = resolve("miniature", limit=7, masks={"min_sam_iou": 0.75, "beams": 2, "max_area": None})
    assert (given.gates.min_sam_iou, given.teacher.beams) == (0.75, 2)
    assert given.gates.max_area == plain.gates.max_area
    assert {given.data.pretrain.limit, given.data.instruct.limit, given.data.evaluation.limit} == {7}
    assert resolve("miniature", masks={"min_sam_iou": None}) == plain


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"recipe": "miniatur"}, "recipe 'miniatur': no such recipe or file; recipes are: miniature"),
        ({"recipe": "miniature", "masks": {"prompt": "no place"}}, "must contain {query} exactly once"),
        ({"recipe": "miniature", "masks": {"min_area": 0.9, "max_area": 0.1}}, "must be smaller than max_area"),
        ({"recipe": "miniature", "masks": {"min_iou": 0.9}}, "'min_iou' is not a parameter"),
        ({"recipe": "miniature", "variants": ["age_vlm", "age_vlm"]}, "name each once"),
    ],
)
def test_what_a_schema_cannot_say_is_refused_with_the_value_and_the_remedy(
    arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(**arguments)
    assert words in str(caught.value)


def test_flows_know_no_parameter_that_they_ignore() -> None:
    for flow in FLOWS:
        source = inspect.getsource(flow.fn)
        for name in inspect.signature(flow.fn).parameters:
            read = "masks=masks" in source if name in MASKS else source.count(name) >= 2
            assert read, f"{flow.name} ignores {name}"


def test_a_signature_with_mask_parameters_serves_a_command_line_too() -> None:
    def as_option(parameter: inspect.Parameter) -> inspect.Parameter:
        return parameter.replace(annotation=Annotated[get_args(parameter.annotation)[0], typer.Option()])

    def command(recipe: str, *, limit: int | None = None, **masks: Any) -> dict[str, Any]:
        return {"recipe": recipe, "limit": limit, **masks}

    app = typer.Typer()
    app.command()(with_mask_parameters(command, as_option))
    names = ["recipe", "limit", *MASK_PARAMETERS]
    assert list(inspect.signature(command).parameters) == names
    assert set(get_type_hints(command)) == {*names, "return"}
    result = CliRunner().invoke(app, ["r", "--min-sam-iou", "0.7", "--sam-prompt", "points"], standalone_mode=False)
    given = {"recipe": "r", "min_sam_iou": 0.7, "sam_prompt": "points"}
    assert result.return_value == dict.fromkeys(names) | given


@pytest.mark.parametrize("dataset", ["pretrain", "instruct"])
@pytest.mark.parametrize("masks", [{"min_sam_iou": 0.83}, {"task": "phrase_grounding", "multimask": True}], ids=str)
def test_the_full_recipe_finds_the_masks_that_the_same_parameters_made(dataset: str, masks: dict[str, Any]) -> None:
    key = f"masks-{dataset}"

    def made(recipe: Recipe) -> Plan:
        return plan(recipe, lambda _: 0, FINGERPRINTS)

    alone = made(mask_recipe(resolve("miniature", masks=masks), dataset))[key]
    assert alone.id == made(resolve("miniature", masks=masks))[key].id
    assert alone.id != made(resolve("miniature"))[key].id
