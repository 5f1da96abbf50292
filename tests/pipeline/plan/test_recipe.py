"""Recipes: shipped ones load, and errors name the field and the value."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import ConfigError
from pipeline.artifacts.paths import PROJECT
from pipeline.config import validate
from pipeline.plan.recipe import RECIPES, Recipe, available, load_recipe, recipe_argument
from pipeline.sources.config import CambrianSource, FolderSource, MiniatureSource, Source
from pipeline.sources.images.finder import Finder
from pipeline.sources.records import Record
from pipeline.sources.table import DataSet
from tests.pipeline.sources.fixtures_rows import entries_of


@pytest.mark.parametrize("name", sorted(available()))
def test_every_shipped_recipe_loads(name: str) -> None:
    assert load_recipe(name).name == name


def test_the_paper_recipe_has_the_papers_settings() -> None:
    recipe = load_recipe("paper")
    assert recipe.data.pretrain.subset == 77_000
    assert recipe.data.instruct.subset == 150_000
    assert recipe.student.cross_attention_layers == (2, 7, 12, 17)
    for stage in ("stage1", "stage2", "stage3", "stage4"):
        config = recipe.training.stage(stage)
        assert (config.learning_rate, config.weight_decay, config.beta2) == (1e-5, 0.1, 0.95)
        assert (config.warmup_ratio, config.epochs, config.global_batch) == (0.03, 1, 128)


def images_of(source: Source) -> set[str] | None:
    """The images of a raw data set: content hashes of files, numbers of scenes. None if the data is not here."""
    if isinstance(source, MiniatureSource):
        return {f"scene {seed}" for seed in range(source.seed, source.seed + source.scenes)}
    if not isinstance(source, CambrianSource | FolderSource) or not Path(source.images).is_dir():
        return None
    dataset = DataSet(source, Path("unused"))
    names = {entry.image for entry in entries_of(dataset.open()) if isinstance(entry, Record) and entry.image}
    finder = Finder(dataset.images())
    return {hashlib.sha256(dataset.images().read(finder.find(name).locator)).hexdigest() for name in names}


@pytest.mark.parametrize("name", sorted(available()))
def test_no_recipe_is_evaluated_on_its_training_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent.parent)
    data = load_recipe(name).data
    pretrain, instruct, evaluation = (images_of(d.source) for d in (data.pretrain, data.instruct, data.evaluation))
    if pretrain is None or instruct is None or evaluation is None:
        pytest.skip(f"the data of recipe {name} are not here")
    assert pretrain
    assert instruct
    assert evaluation
    assert not evaluation & (pretrain | instruct)


def test_the_error_for_an_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="recipes are: miniature, paper, photos"):
        load_recipe("papper")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seeds: 1", "seeds: there is no such field"),
        ("seed: -1", "seed = -1"),
        ("gates: {min_sam_iou: 1.5}", "gates.min_sam_iou = 1.5"),
        ("gates: {min_area: 0.5, max_area: 0.1}", "min_area 0.5 must be smaller than max_area 0.1"),
        ("teacher: {prompt: find it}", r"must contain \{query\} exactly once"),
        ("variants: [age_vlm, age_vlm]", "repeat"),
        ("training: {stages: {stage5: {}}}", "unknown stage 'stage5'"),
        ("resources: {segmnet: {gpus: 1}}", "unknown step 'segmnet'; steps are inventory, overlap, subset, segment"),
        ("weights: {sam: hub:facebook/sam-vit-huge@0}", r"sam = 'hub:facebook/.*download it \(sam_vit_h_4b8939\.pth"),
        ("training: {common: {learning_rat: 1}}", "learning_rat: there is no such field"),
        ("pack: {template: plain, system_prompt: Look}", "template = 'plain' has no place for a system_prompt"),
        ("pack: {template: vicuna}", "pack.template = 'vicuna'"),
    ],
)
def test_a_wrong_value_is_named_with_its_field(tmp_path: Path, change: str, message: str) -> None:
    key = change.split(":")[0]
    lines = (available()["miniature"]).read_text().splitlines()
    kept, skipping = [], False
    for line in lines:
        if not line.startswith((" ", "#")):
            skipping = line.split(":")[0] == key
        if not skipping:
            kept.append(line)
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join([*kept, change]))
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("dataset", "kinds", "message"),
    [
        ("pretrain", ["copies"], "'duplicates', 'evaluation_images' or 'instruct_images'"),
        ("instruct", ["instruct_images"], "instruct.drop = 'instruct_images': it can drop duplicates, evaluation_im"),
        ("evaluation", ["duplicates"], "evaluation.drop = 'duplicates': only training data is dropped"),
        ("pretrain", ["duplicates", "duplicates"], "pretrain.drop = .* repeats"),
    ],
)
def test_only_what_the_comparison_finds_in_training_data_is_dropped(
    dataset: str, kinds: list[str], message: str
) -> None:
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["data"][dataset]["drop"] = kinds
    with pytest.raises(ConfigError, match=message):
        validate(Recipe, raw, "recipe")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quotas": {"sam": 5}}, "subset = 240 and quotas of 5 records; give one of them"),
        ({"quotas": {"sam": 0}, "subset": None}, r"quotas\.sam = 0"),
        ({"quotas": {}, "subset": None}, "quotas"),
    ],
)
def test_quotas_replace_the_size_of_a_subset(change: dict[str, Any], message: str) -> None:
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["data"]["pretrain"] |= change
    with pytest.raises(ConfigError, match=message):
        validate(Recipe, raw, "recipe")


def test_relative_locations_start_from_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "mine.yaml"
    text = (RECIPES / "paper.yaml").read_text()
    path.write_text(text.replace("text: weights/llama-3.2-1b", "text: /absolute/llama"))
    monkeypatch.chdir(tmp_path)
    for name in ("here/mine.yaml", recipe_argument("here/mine.yaml")):
        recipe = load_recipe(name)
        source = recipe.data.pretrain.source
        assert isinstance(source, CambrianSource)
        assert source.images == str(tmp_path / "here" / "data" / "alignment")
        assert recipe.weights.text == "/absolute/llama"
        assert recipe.weights.sam == str(tmp_path / "here" / "weights" / "sam_vit_h_4b8939.pth")
    shipped = load_recipe("paper").data.pretrain.source
    assert isinstance(shipped, CambrianSource)
    assert shipped.images == str(PROJECT / "data" / "alignment")
    assert recipe_argument("paper") == "paper"
    assert recipe_argument("here/mine.yaml") == str(path)
    assert load_recipe("miniature").weights.text == "miniature"


def test_a_recipe_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
        load_recipe(str(path))


@pytest.mark.parametrize("text", ["- a", "a: [", "3"])
def test_a_recipe_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        load_recipe(str(path))


def test_overrides_that_are_none_change_nothing() -> None:
    recipe = load_recipe("miniature")
    assert recipe.override(gates={"min_area": None}, teacher={"prompt": None}) == recipe


def test_a_wrong_override_is_refused_like_a_wrong_recipe() -> None:
    with pytest.raises(ConfigError, match=r"gates\.min_area = 7"):
        load_recipe("miniature").override(gates={"min_area": 7})


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_overrides_reach_their_fields(limit: int, gate: float) -> None:
    recipe = load_recipe("miniature").override(limit=limit, gates={"min_sam_iou": gate}, variants=["age_vlm"])
    assert recipe.data.pretrain.limit == recipe.data.instruct.limit == recipe.data.evaluation.limit == limit
    assert recipe.gates.min_sam_iou == gate
    assert recipe.variants == ("age_vlm",)


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        ("stage2", {"guidance_weight": 2.0}, "stages.stage2.guidance_weight = 2.0: stage2 has no guidance loss; take"),
        ("stage1", {"guidance_schedule": [[0, 0.5]]}, "stages.stage1.guidance_schedule = .*: stage1 has no guidance"),
        ("stage3", {"guidance_weight": float("inf")}, "guidance_weight = inf"),
        ("stage3", {"guidance_schedule": [[0, 1], [0, 2]]}, "share 0.0 follows share 0.0; give the points by rising"),
        ("stage3", {"guidance_schedule": [[0.5, 1], [0.2, 2]]}, "share 0.2 follows share 0.5"),
        ("stage3", {"guidance_schedule": [[0, 1], [1.5, 2]]}, "share 1.5 is not one of the stage's steps; give shares"),
        ("stage4", {"guidance_schedule": [[0, -1]]}, "factor -1.0 at share 0.0; give finite factors from 0 on"),
        ("stage4", {"guidance_schedule": []}, "guidance_schedule"),
    ],
)
def test_a_guidance_weight_that_cannot_be_is_refused(stage: str, fields: dict[str, Any], message: str) -> None:
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["training"]["stages"][stage].update(fields)
    with pytest.raises(ConfigError, match=message):
        validate(Recipe, raw, "recipe")


def test_every_stage_may_get_the_weight_that_it_has_anyway() -> None:
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["training"]["stages"]["stage1"]["guidance_weight"] = 1.0
    assert validate(Recipe, raw, "recipe").training.stage("stage1").guidance_weight == 1.0
