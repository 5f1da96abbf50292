"""Teachers in the plan: what a teacher reads is in its id, and nothing else is asked for."""

from typing import Any

import pytest

from flows.run.preparation import needed
from model.errors import ConfigError
from pipeline.compute.resources import Resources
from pipeline.config import validate
from pipeline.masks.config import TeacherConfig
from pipeline.masks.teachers.table import OF_SHARDS, TEACHERS, only_used, open_phases, teacher_kind
from pipeline.plan.parameters import SegmentParams
from pipeline.plan.planner import PlannedStep
from pipeline.plan.recipe import Recipe, load_recipe
from tests.pipeline.plan.test_planner import planned


def recipe(teacher: Any, **changes: Any) -> Recipe:
    raw = load_recipe("miniature").model_dump(mode="json") | {"teacher": teacher} | changes
    return validate(Recipe, raw, "recipe")


def segment(teacher: Any, **changes: Any) -> PlannedStep:
    return planned(recipe(teacher, **changes))["segment-pretrain"]


def test_the_shorthand_is_the_kind() -> None:
    assert recipe("truth").teacher == recipe({"kind": "truth"}).teacher == TeacherConfig(kind="truth")


def test_an_unknown_teacher_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'oracle': there is no such teacher; give one of florence_sam, truth"):
        recipe("oracle")
    with pytest.raises(ConfigError, match="there is no such teacher"):
        teacher_kind("oracle")


def test_a_teacher_without_weights_has_none_in_its_id_and_needs_none() -> None:
    params = segment("truth").spec.params
    assert not {"florence", "sam"} & params.keys()
    assert {"florence", "sam"} <= segment({"kind": "florence_sam"}).spec.params.keys()
    names = needed(recipe("truth"), "masks")
    assert not {"weights.florence", "weights.sam"} & names
    assert "data.pretrain" in names
    assert {"weights.florence", "weights.sam"} <= needed(recipe({"kind": "florence_sam"}), "masks")


def test_settings_that_a_teacher_does_not_read_change_no_id() -> None:
    unused = {"kind": "truth", "max_new_tokens": 64, "beams": 3, "sam_prompt": "points", "prompt": "Find {query}"}
    assert segment(unused).id == segment("truth").id
    assert segment({"kind": "truth", "shard_images": 7}).id != segment("truth").id
    assert segment({"beams": 3}).id != segment({}).id != segment("truth").id


@pytest.mark.parametrize("kind", sorted(TEACHERS))
def test_every_setting_that_is_kept_is_one(kind: str) -> None:
    used = OF_SHARDS | TEACHERS[kind].settings
    assert used <= TeacherConfig.model_fields.keys()
    changed = TeacherConfig(kind=kind, shard_images=7, beams=2)
    assert only_used(changed) == changed if "beams" in used else only_used(changed).beams == 1
    assert only_used(only_used(changed)) == only_used(changed)


def test_a_teacher_without_weights_gets_no_gpu() -> None:
    resources = {"segment": {"cpus": 2, "gpus": 1, "workers": 3}}
    assert segment("truth", resources=resources).resources == Resources(cpus=2, gpus=0, workers=3)
    assert segment({}, resources=resources).resources.gpus == 1


def test_parameters_without_a_teachers_weights_are_those_of_its_id() -> None:
    params = SegmentParams(teacher=TeacherConfig(kind="truth"))
    assert set(params.model_dump(mode="json")) == {"teacher"}
    assert validate(SegmentParams, params.model_dump(mode="json"), "parameters") == params


def test_a_changed_teacher_changes_the_segments_and_what_is_made_of_them_only() -> None:
    before, after = planned(recipe({})), planned(recipe("truth"))
    changed = {step.key for step in before if step.id != after[step.key].id}
    assert {"segment-pretrain", "masks-pretrain", "stage3", "report"} <= changed
    assert not changed & {"inventory-pretrain", "subset-pretrain", "pack-pretrain", "stage1", "stage2"}


def test_a_setup_names_its_teacher() -> None:
    from pipeline.masks.config import TeacherSetup

    with pytest.raises(ConfigError, match="'oracle'"):
        open_phases(TeacherSetup({}, "oracle", TeacherConfig(kind="oracle"), "cpu", 1))
