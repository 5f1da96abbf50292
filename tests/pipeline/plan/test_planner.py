"""The plan: a pure function. An id changes exactly if the result can change."""

import json
import subprocess
import sys
from typing import Any

import pytest

from flows.run.schedule import demand
from model.errors import ConfigError
from pipeline.artifacts.spec import StepSpec
from pipeline.masks.config import MaskGates
from pipeline.plan.locations import locations_of
from pipeline.plan.planner import Plan, mask_recipe, plan
from pipeline.plan.recipe import Recipe, load_recipe
from pipeline.plan.step_table import STEPS

FINGERPRINTS = {
    **{f"data.{name}": f"{name}-raw" for name in ("pretrain", "instruct", "evaluation")},
    **{f"weights.{role}": f"{role}-weights" for role in ("florence", "sam", "text", "vision")},
    "tokenizer": "the-tokenizer",
}


def planned(recipe: Recipe | None = None, fingerprints: dict[str, str] | None = None) -> Plan:
    return plan(recipe or load_recipe("miniature"), lambda spec: 0, fingerprints or FINGERPRINTS)


def changed(before: Plan, after: Plan) -> set[str]:
    return {step.key for step in before if step.id != after[step.key].id}


def test_each_step_comes_after_its_inputs_and_names_their_ids() -> None:
    steps, seen = planned(), set[str]()
    for step in steps:
        assert set(step.inputs.values()) <= seen
        assert step.spec.inputs == {name: steps[key].id for name, key in step.inputs.items()}
        seen.add(step.key)


def test_inputs_are_of_the_kinds_that_the_table_declares() -> None:
    steps = planned()
    for step in steps:
        for name, key in step.inputs.items():
            assert step.step.input_kind(name) == steps[key].step.kind
        assert set(step.step.inputs) - step.step.optional <= {name.split("/")[0] for name in step.inputs}


def test_the_plan_is_the_same_in_another_process() -> None:
    code = (
        "import json; from tests.pipeline.plan.test_planner import planned;"
        "print(json.dumps({s.key: s.id for s in planned()}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == {step.key: step.id for step in planned()}


def test_three_variants_share_stages_one_and_two() -> None:
    keys = [step.key for step in planned()]
    assert len(keys) == len(set(keys))
    assert {"stage1", "stage2", "stage3", "stage3_baseline", "stage4", "stage4_baseline", "stage4_lm"} <= set(keys)
    assert planned()["stage3"].inputs["parent"] == planned()["stage3_baseline"].inputs["parent"] == "stage2"
    assert planned()["stage4_lm"].inputs["parent"] == planned()["stage4"].inputs["parent"] == "stage3"


def test_packs_and_stages_one_and_two_do_not_depend_on_masks() -> None:
    steps = planned()
    for key in ("pack-pretrain", "pack-instruct", "stage1", "stage2", "stage3_baseline", "stage4_baseline"):
        ancestors = {step.key for step in steps.until(key)}
        assert not {k for k in ancestors if k.startswith(("segment", "masks", "subset"))}


def dropping(**kinds: list[str]) -> Recipe:
    """The miniature recipe with `drop` of some data sets."""
    raw = load_recipe("miniature").model_dump(mode="json")
    for name, dropped in kinds.items():
        raw["data"][name]["drop"] = dropped
    return Recipe.model_validate(raw)


def test_no_step_but_the_report_depends_on_the_comparison_of_data_sets() -> None:
    steps = planned()
    assert [step.key for step in steps if "overlap" in step.inputs.values()] == ["report"]
    for key in ("pack-pretrain", "subset-instruct"):
        assert "drop" not in steps[key].spec.params
    assert changed(steps, planned(dropping(pretrain=[], instruct=[]))) == set()


def test_what_is_dropped_changes_the_steps_of_its_data_set() -> None:
    before, after = planned(), planned(dropping(instruct=["duplicates", "evaluation_images"]))
    assert changed(before, after) == {
        "pack-instruct", "subset-instruct", "segment-instruct", "masks-instruct", "stage4_baseline", "stage4",
        "stage4_lm", "evaluate-ca_baseline", "evaluate-age_vlm", "evaluate-age_vlm_lm", "report",
    }  # fmt: skip
    for key in ("pack-instruct", "subset-instruct"):
        assert after[key].inputs == {"inventory": "inventory-instruct", "overlap": "overlap"}
        assert after[key].spec.params["drop"] == ["duplicates", "evaluation_images"]
    assert after["overlap"].id == before["overlap"].id
    assert {"inventory-pretrain", "overlap"} <= {step.key for step in after.until("masks-instruct")}


def test_only_the_lm_variant_needs_the_instruct_masks() -> None:
    recipe = load_recipe("miniature").override(variants=["ca_baseline", "age_vlm"])
    keys = {step.key for step in planned(recipe)}
    assert "masks-pretrain" in keys
    assert "masks-instruct" not in keys


def test_a_changed_gate_changes_masks_and_what_follows_only() -> None:
    before = planned()
    after = planned(load_recipe("miniature").override(gates={"min_sam_iou": 0.61}))
    assert changed(before, after) == {
        "masks-pretrain", "masks-instruct", "stage3", "stage4", "stage4_lm",
        "evaluate-age_vlm", "evaluate-age_vlm_lm", "report",
    }  # fmt: skip


def test_a_changed_prompt_segments_again() -> None:
    after = planned(load_recipe("miniature").override(teacher={"prompt": "Where is {query}"}))
    assert {"segment-pretrain", "masks-pretrain", "stage3"} <= changed(planned(), after)
    assert "subset-pretrain" not in changed(planned(), after)


@pytest.mark.parametrize("gate", MaskGates.model_fields)
def test_every_gate_reuses_the_evidence(gate: str) -> None:
    """Another gate makes other masks of the same evidence: no teacher runs again."""
    other = {"require_ended": False, "max_area": 0.93}.get(gate, 0.17)
    before, after = planned(), planned(load_recipe("miniature").override(gates={gate: other}))
    assert {"masks-pretrain", "masks-instruct"} <= changed(before, after)
    for key in ("inventory-pretrain", "subset-pretrain", "segment-pretrain", "segment-instruct"):
        assert before[key].id == after[key].id


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "Where is {query}"),
        ("task", "phrase_grounding"),
        ("sam_prompt", "points"),
        ("multimask", True),
        ("beams", 3),
        ("max_new_tokens", 77),
        ("max_query_characters", 77),
    ],
)
def test_another_setting_of_the_teachers_segments_again(field: str, value: object) -> None:
    before, after = planned(), planned(load_recipe("miniature").override(teacher={field: value}))
    assert {"segment-pretrain", "masks-pretrain"} <= changed(before, after)
    assert not {"inventory-pretrain", "subset-pretrain", "pack-pretrain", "stage1"} & changed(before, after)


def test_resources_never_enter_an_id() -> None:
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["resources"] = {"stage1": {"cpus": 7, "workers": 3, "micro_batch": 2}, "segment": {"gpus": 1}}
    after = planned(Recipe.model_validate(raw))
    assert changed(planned(), after) == set()
    assert after["stage1"].resources.workers == 3


def test_a_parameter_that_was_added_later_changes_no_id_until_it_is_used() -> None:
    before, recipe = planned(), load_recipe("miniature")
    assert "quotas" not in before["subset-pretrain"].spec.params
    assert "template" not in before["pack-pretrain"].spec.params["pack"]
    raw = recipe.model_dump(mode="json")
    raw["pack"]["template"] = "chat"
    raw["data"]["pretrain"]["quotas"] = None
    assert changed(before, planned(Recipe.model_validate(raw))) == set()
    raw["pack"]["template"] = "plain"
    after = planned(Recipe.model_validate(raw))
    assert after["pack-pretrain"].spec.params["pack"]["template"] == "plain"
    assert {"pack-pretrain", "pack-instruct", "stage1"} <= changed(before, after)
    assert not {"subset-pretrain", "segment-pretrain"} & changed(before, after)
    raw["data"]["pretrain"] |= {"quotas": {"a": 10}, "subset": None}
    params = planned(Recipe.model_validate(raw))["subset-pretrain"].spec.params
    assert (params["size"], params["quotas"]) == (None, {"a": 10})


def test_the_plan_says_what_reading_and_packing_ask_for() -> None:
    steps = planned(load_recipe("photos"))
    for key in ("inventory-pretrain", "pack-pretrain"):
        assert demand(steps[key]).cpus == 2
        assert str(steps[key].resources) == "2 x 1 CPU"
    full = planned(load_recipe("paper"))
    assert demand(full["pack-instruct"]).cpus == 16
    assert str(full["segment-pretrain"].resources) == "8 x 2 CPU + 1 GPU"
    assert str(full["evaluate-age_vlm"].resources) == "8 CPU + 1 GPU"


@pytest.mark.parametrize(
    ("fingerprint", "first"),
    [("data.pretrain", "inventory-pretrain"), ("weights.sam", "segment-pretrain"), ("weights.vision", "stage1")],
)
def test_other_raw_data_or_weights_change_the_steps_that_use_them(fingerprint: str, first: str) -> None:
    after = planned(fingerprints={**FINGERPRINTS, fingerprint: "other"})
    assert first in changed(planned(), after)
    assert "inventory-instruct" not in changed(planned(), after)


def test_a_forced_attempt_changes_what_follows() -> None:
    target = planned()["masks-pretrain"].spec

    def attempts(spec: StepSpec) -> int:
        return 1 if spec == target else 0

    after = plan(load_recipe("miniature"), attempts, FINGERPRINTS)
    assert changed(planned(), after) == {
        "masks-pretrain", "stage3", "stage4", "stage4_lm", "evaluate-age_vlm", "evaluate-age_vlm_lm", "report",
    }  # fmt: skip
    assert after["masks-pretrain"].spec == target


def test_until_keeps_exactly_the_ancestors() -> None:
    keys = [step.key for step in planned().until("masks-pretrain")]
    assert keys == ["inventory-pretrain", "subset-pretrain", "segment-pretrain", "masks-pretrain"]
    assert [s.key for s in planned().until("inventory")] == [
        f"inventory-{d}" for d in ("pretrain", "instruct", "evaluation")
    ]
    with pytest.raises(ConfigError, match="until = 'mask': no such step"):
        planned().until("mask")


@pytest.mark.parametrize("dataset", ["pretrain", "instruct"])
def test_mask_generation_has_the_same_ids_as_the_full_recipe(dataset: str) -> None:
    alone = planned(mask_recipe(load_recipe("miniature"), dataset))
    assert alone[f"masks-{dataset}"].id == planned()[f"masks-{dataset}"].id


def test_every_entry_of_the_table_can_be_imported() -> None:
    for step in STEPS.values():
        module, function = step.entry.split(":")
        code = f"import importlib; assert callable(getattr(importlib.import_module('{module}'), '{function}'))"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "module",
    ["pipeline.plan.planner", "pipeline.plan.step_table", "pipeline.plan.recipe", "pipeline.plan.fingerprints"],
)
def test_planning_imports_neither_torch_nor_ray(module: str) -> None:
    code = f"import {module}, sys; print([m for m in ('torch', 'ray', 'prefect', 'transformers') if m in sys.modules])"
    out: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_reject_limit_is_not_part_of_an_id() -> None:
    """It decides if a step fails, but not the result, so after raising it no shard is made again."""
    raw = load_recipe("miniature").model_dump(mode="json")
    strict, lenient = (Recipe.model_validate(raw | {"max_reject_share": share}) for share in (0.0, 0.5))
    assert [step.id for step in planned(strict)] == [step.id for step in planned(lenient)]
    assert locations_of(lenient, "/store", "/scratch").max_reject_share == 0.5


@pytest.mark.parametrize(
    "change", [{"guidance_weight": 0.5}, {"guidance_schedule": [[0, 0], [0.1, 1]]}, {"mask_cells": "half"}]
)
def test_a_setting_of_the_guidance_loss_changes_guided_stages_and_what_follows(change: dict[str, Any]) -> None:
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["training"]["common"].update(change)
    after = planned(Recipe.model_validate(raw))
    guided = {"stage3", "stage4", "stage4_lm", "evaluate-age_vlm", "evaluate-age_vlm_lm", "report"}
    assert changed(planned(), after) == guided
    (field,) = change
    assert after["stage4"].spec.params["config"][field] == planned()["stage4"].spec.params["config"][field]
