"""The evaluation's images that were trained on are counted."""

from pathlib import Path

import pytest

from pipeline.artifacts.store import Artifact
from pipeline.plan.planner import TRAINING_SETS
from pipeline.plan.recipe import Recipe, load_recipe
from pipeline.report.collect import collect
from pipeline.report.overlap import Overlap, dataset_rows, overlap_of, overlap_words
from tests.pipeline.report.fixtures_artifacts import Fabric, page_of

RECIPE = load_recipe("miniature").override(variants=["age_vlm_lm"])
SCENES = 6


def inputs_of(root: Path, leaked: int = 0, recipe: Recipe = RECIPE) -> dict[str, Artifact]:
    """The report's inputs in a made-up run of one variant."""
    made = Fabric(root, recipe, SCENES, leaked=leaked)
    return {f"{s.step.kind}/{s.key}": made.make(s) for s in made.plan() if s.key != "report"}


def overlap(inputs: dict[str, Artifact]) -> Overlap | None:
    return overlap_of(collect(RECIPE.name, RECIPE.variants, inputs))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return inputs_of(tmp_path_factory.mktemp("clean"))


def test_no_image_was_trained_on(clean: dict[str, Artifact]) -> None:
    found = overlap(clean)
    assert found == Overlap(SCENES, {"pretrain": 0, "instruct": 0}, 0)
    assert found.finding == ""
    assert overlap_words(found).startswith("None of the evaluation's 6 images is in the training data")


@pytest.mark.parametrize(
    "without",
    [
        "inventory-evaluation",
        "inventory-pretrain",
        "inventory-instruct",
        "pack-instruct",
        "evaluate-age_vlm_lm",
        "overlap",
    ],
)
def test_what_cannot_be_known_is_not_claimed(without: str, clean: dict[str, Artifact]) -> None:
    found = overlap({name: a for name, a in clean.items() if not name.endswith(f"/{without}")})
    assert found is None
    assert "The run lacks the comparison" in overlap_words(found)


def test_images_that_were_trained_on_are_counted(tmp_path: Path) -> None:
    found = overlap(inputs_of(tmp_path, leaked=1))
    assert found == Overlap(SCENES, {"pretrain": 1, "instruct": 0}, 1)
    assert "1 of the evaluation's 6 images is also in the pretraining data: read the scores as in part training" in (
        overlap_words(found)
    )


def dropping(*datasets: str) -> Recipe:
    raw = RECIPE.model_dump(mode="json")
    for name in datasets:
        raw["data"][name]["drop"] = ["evaluation_images"]
    return Recipe.model_validate(raw)


@pytest.mark.parametrize(("datasets", "trained_on"), [(("instruct",), 2), (("pretrain",), 0), (TRAINING_SETS, 0)])
def test_images_that_were_dropped_before_training_do_not_count(
    tmp_path: Path, datasets: tuple[str, ...], trained_on: int
) -> None:
    found = overlap(inputs_of(tmp_path, leaked=2, recipe=dropping(*datasets)))
    assert found == Overlap(SCENES, {"pretrain": trained_on, "instruct": 0}, trained_on)


def test_the_data_sets_are_described(tmp_path: Path) -> None:
    rows = dataset_rows(collect(RECIPE.name, RECIPE.variants, inputs_of(tmp_path, leaked=2)))
    assert [row.name for row in rows] == ["pretraining", "instruction", "evaluation"]
    assert rows[0].shared == {"instruct": "0", "evaluation": "2 (2 records)"}
    assert rows[2].shared == {"pretrain": "2 (2 records)", "instruct": "0"}
    assert rows[0].facts["records"] == SCENES
    assert [row.dropped for row in rows] == ["", "", ""]


def test_an_image_in_two_data_sets_counts_once() -> None:
    words = overlap_words(Overlap(9, {"pretrain": 4, "instruct": 3}, 5))
    assert "4 of the evaluation's 9 images are also in the pretraining data and 3 of" in words
    assert "in part training scores" in words
    assert overlap_words(Overlap(4, {"pretrain": 4, "instruct": 4}, 4)).endswith("read the scores as training scores.")


def test_the_page_says_it_where_the_scores_stand_and_at_its_head(tmp_path: Path) -> None:
    artifact = Fabric(tmp_path, RECIPE, SCENES, leaked=SCENES).report()
    page, statistics = page_of(artifact), artifact.manifest.statistics
    assert statistics["evaluation_images"] == {"all": SCENES, "trained_on": SCENES}
    assert page.count("read the scores as training scores") == 3  # findings, evaluation, limits
    assert "None of the evaluation" not in page
    assert f"{SCENES} ({SCENES} records)" in page.split('id="data"')[1].split("</section>")[0]
