"""Ids say what decides a result, and only that: settings of a stage, weights beside a tokenizer, library versions."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model.errors import ConfigError
from model.stage_table import STAGE_STEPS
from pipeline.artifacts.versions import LIBRARIES
from pipeline.packing.config import TOKENIZER_FILES
from pipeline.packing.formats import open_format
from pipeline.plan.fingerprints import MINIATURE_WEIGHTS, TOKENIZER, Fingerprints
from pipeline.plan.planner import GUIDED_ROWS, Plan
from pipeline.plan.recipe import Recipe, load_recipe
from pipeline.plan.step_table import STEPS
from pipeline.sources.records import Turn
from pipeline.training.config import GUIDANCE_FIELDS, StageConfig
from pipeline.training.execution import Execution
from tests.pipeline.plan.test_planner import FINGERPRINTS, changed, planned

OTHER_EXECUTION: dict[str, Any] = {
    "parallel": "fsdp",
    "activation_checkpointing": True,
    "compile": True,
    "loader_processes": 3,
    "read_ahead": 7,
    "log_every": 3,
    "held_out_every": 5,
    "checkpoint_minutes": 1.5,
    "checkpoint_steps": 4,
    "keep_checkpoints": 5,
    "trackers": ["mlflow"],
}
OTHER_CONFIG: dict[str, Any] = {
    "epochs": 9,
    "max_steps": 7,
    "global_batch": 24,
    "length_window": 3,
    "tail": "keep",
    "held_out": 5,
    "learning_rate": 0.5,
    "weight_decay": 0.2,
    "beta1": 0.8,
    "beta2": 0.9,
    "warmup_ratio": 0.5,
    "clip_norm": 2.0,
    "precision": "bf16",
    "guidance_weight": 0.5,
    "guidance_schedule": [[0.0, 0.0], [1.0, 1.0]],
    "mask_cells": "half",
}


def training(stage: str, field: str, value: object) -> Recipe:
    """The miniature recipe with one field of a stage changed."""
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["training"]["stages"].setdefault(stage, {})[field] = value
    return Recipe.model_validate(raw)


def descendants(plan: Plan, names: set[str]) -> set[str]:
    """The keys of the steps with these names, and of all that are made from them."""
    return following(plan, {step.key for step in plan if step.step.name in names})


def following(plan: Plan, keys: set[str]) -> set[str]:
    """The keys of these steps, and of all that are made from them."""
    found: set[str] = set()
    for step in plan:
        if step.key in keys or found & set(step.inputs.values()):
            found.add(step.key)
    return found


def test_these_tests_know_every_field() -> None:
    """A field without a value here would not be tested."""
    assert set(OTHER_EXECUTION) == set(Execution.model_fields)
    assert set(OTHER_CONFIG) == set(StageConfig.model_fields)


@pytest.mark.parametrize("field", Execution.model_fields)
def test_how_a_stage_runs_is_in_no_id(field: str) -> None:
    before = planned()
    for stage in STAGE_STEPS:
        after = planned(training(stage, field, OTHER_EXECUTION[field]))
        steps = [step for step in after if step.step.name == stage]
        assert steps
        assert all(getattr(step.execution, field) != getattr(before[step.key].execution, field) for step in steps)
        assert changed(before, after) == set()


@pytest.mark.parametrize("field", StageConfig.model_fields)
@pytest.mark.parametrize("stage", STAGE_STEPS)
def test_what_decides_a_stage_is_in_its_id_and_in_those_of_what_follows(stage: str, field: str) -> None:
    """A field that only the guidance loss reads is in the ids of guided rows alone; stages 1 and 2 refuse it."""
    before = planned()
    of_guidance = field in GUIDANCE_FIELDS
    if of_guidance and stage in ("stage1", "stage2"):
        with pytest.raises(ValidationError, match=f"{stage} has no guidance loss"):
            training(stage, field, OTHER_CONFIG[field])
        return
    rows = {step.key for step in before if step.step.name == stage and (not of_guidance or step.key in GUIDED_ROWS)}
    after = planned(training(stage, field, OTHER_CONFIG[field]))
    assert rows
    assert changed(before, after) == following(before, rows)


# -- the tokenizer


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A copy of the miniature language backbone, as a folder of one's own."""
    return Path(shutil.copytree(MINIATURE_WEIGHTS / "llama", tmp_path / "llama"))


def with_backbone(folder: Path, scratch: Path) -> Plan:
    """The plan of the miniature recipe with this language backbone and its real fingerprints."""
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["weights"]["text"] = str(folder)
    recipe = Recipe.model_validate(raw)
    real = Fingerprints(scratch).recipe(recipe, {"weights.text", TOKENIZER})
    return planned(recipe, FINGERPRINTS | {name: real[name] for name in ("weights.text", TOKENIZER)})


def append(file: Path, text: bytes) -> None:
    file.write_bytes(file.read_bytes() + text if file.exists() else text)


PACKS, STAGE_1 = {"pack-pretrain", "pack-instruct"}, {"stage1"}


@pytest.mark.parametrize(
    ("file", "first"),
    [
        ("model.safetensors", STAGE_1),
        ("config.json", STAGE_1),
        ("README.md", set()),
        ("optimizer.bin", set()),
        *((file, PACKS) for file in TOKENIZER_FILES),
    ],
)
def test_a_pack_depends_on_the_tokenizers_files_and_stage_1_on_all_that_are_loaded(
    tmp_path: Path, backbone: Path, file: str, first: set[str]
) -> None:
    before = with_backbone(backbone, tmp_path)
    if file == "model.safetensors":  # a byte more would be a damaged file
        content = (backbone / file).read_bytes()
        (backbone / file).write_bytes(content[:-4] + bytes(4))
    else:
        append(backbone / file, b" ")
    after = with_backbone(backbone, tmp_path)
    found = changed(before, after)
    assert first <= found
    assert found == descendants(before, {"stage1", "pack"} if first == PACKS else {"stage1"} if first else set())
    assert bool(PACKS & found) == (first == PACKS)


def test_a_pack_reads_no_other_file_than_those_of_its_fingerprint(tmp_path: Path, backbone: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in TOKENIZER_FILES:
        if (backbone / file).is_file():
            shutil.copy(backbone / file, alone / file)
    turns = [Turn("what is this?", "a red circle"), Turn("and that?", "a blue square")]
    for template in ("chat", "plain"):
        asked = turns if template == "chat" else turns[:1]
        whole, tokens_only = (open_format(str(folder), template) for folder in (backbone, alone))
        assert whole.render(asked) == tokens_only.render(asked)
        text = whole.render(asked).text
        assert whole.tokenizer.encode(text).ids == tokens_only.tokenizer.encode(text).ids


def test_a_backbone_from_a_hub_keeps_its_commit(tmp_path: Path) -> None:
    """Its files may or may not be in this machine's cache, and ids are the same everywhere."""
    name = f"hub:org/llama@{'a' * 40}"
    assert Fingerprints(tmp_path).tokenizer(name) == name


def test_a_backbone_without_a_tokenizer_is_named(tmp_path: Path, backbone: Path) -> None:
    (backbone / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"weights\.text = .*there is no .*tokenizer\.json; save"):
        Fingerprints(tmp_path).tokenizer(str(backbone))


# -- versions of libraries


def asking(*libraries: str) -> Recipe:
    raw = load_recipe("miniature").model_dump(mode="json")
    return Recipe.model_validate({**raw, "versions_in_ids": list(libraries)})


def versions(**numbers: str) -> dict[str, str]:
    return FINGERPRINTS | {f"version.{name}": number for name, number in numbers.items()}


def test_the_versions_that_decide_results_are_recorded() -> None:
    assert {name for step in STEPS.values() for name in step.libraries} <= set(LIBRARIES)


def test_without_being_asked_for_versions_are_in_no_id() -> None:
    assert not any("versions" in step.spec.params for step in planned())
    assert changed(planned(), planned(asking())) == set()


def test_versions_that_are_asked_for_are_in_the_ids_of_the_steps_that_they_decide() -> None:
    recipe = asking("timm", "tokenizers")
    before = planned(recipe, versions(timm="1.0", tokenizers="0.21"))
    assert before["stage1"].spec.params["versions"] == {"timm": "1.0"}
    assert before["pack-pretrain"].spec.params["versions"] == {"tokenizers": "0.21"}
    assert before["inventory-pretrain"].id == planned()["inventory-pretrain"].id
    with_timm = planned(recipe, versions(timm="1.1", tokenizers="0.21"))
    assert changed(before, with_timm) == descendants(before, {*STAGE_STEPS, "evaluate"})
    with_tokenizers = planned(recipe, versions(timm="1.0", tokenizers="0.22"))
    assert changed(before, with_tokenizers) == descendants(before, {"pack", "segment", "evaluate"})


def test_the_installed_versions_are_those_of_the_plan(tmp_path: Path) -> None:
    import timm

    found = Fingerprints(tmp_path).recipe(asking("timm"), set())
    assert found["version.timm"] == timm.__version__


def test_a_library_that_decides_nothing_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match=r"'ray' decides no result; give some of .*torch"):
        asking("ray")
