"""Costs of a plan: amounts of data, steps, time, storage, calibration, and what does not fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import ConfigError
from model.stage_table import STAGES
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.costs.amounts import Amount, Given, amounts
from pipeline.plan.costs.calibration import Calibration, calibration_file, read_calibration, write_calibration
from pipeline.plan.costs.cluster import CARDS, cluster
from pipeline.plan.costs.estimate import Estimate, estimate
from pipeline.plan.costs.figures import quantity
from pipeline.plan.costs.stages import steps_of
from pipeline.plan.costs.student import student_of
from pipeline.plan.recipe import Recipe, load_recipe
from pipeline.plan.status import Verdict
from pipeline.training.config import StageConfig
from pipeline.training.data.order import SampleOrder
from tests.pipeline.plan.test_planner import planned

NOTHING = Given({}, {})


def costs(
    recipe: Recipe, on: str = "8xA100-80G", given: Given = NOTHING, calibration: Calibration | None = None,
    free: int | None = None,
) -> Estimate:  # fmt: skip
    """The costs of a recipe of which nothing is cached."""
    verdicts = [Verdict(step, "to run", "never made") for step in planned(recipe)]
    return estimate(recipe, verdicts, {}, student_of(recipe), cluster(on), given, calibration, free)


def figure(found: Estimate, key: str, name: str) -> float | None:
    return next(step for step in found.steps if step.key == key).figures[name].value


def test_the_papers_recipe_is_costed_without_data_and_weights() -> None:
    found = costs(load_recipe("paper"))
    assert figure(found, "stage4", "samples") == 78_123 * 128  # 256 rows, two batches, are held out
    assert figure(found, "stage1", "FLOPs") == pytest.approx(7.3e18, rel=0.2)  # the vision encoder is computed twice
    assert not any("needs" in warning for warning in found.warnings)
    assert any("assumed 256 tokens a row" in note for note in found.notes)
    assert any("stages at 20% of the peak, as measured on one H200" in note for note in found.notes)
    assert "as measured on an H200" in next(s for s in found.steps if s.key == "stage1").figures["time"].how


def test_a_teacher_without_weights_costs_no_flops_and_no_time_of_a_gpu() -> None:
    found = costs(load_recipe("paper").override(teacher={"kind": "truth"}))
    assert figure(found, "segment-pretrain", "FLOPs") == 0
    assert "time" not in next(step for step in found.steps if step.key == "segment-pretrain").figures
    assert (figure(costs(load_recipe("paper")), "segment-pretrain", "FLOPs") or 0) > 1e17


def test_the_papers_recipe_does_not_fit_without_activation_checkpointing() -> None:
    raw = load_recipe("paper").model_dump(mode="json")
    raw["training"]["common"]["activation_checkpointing"] = False
    warnings = costs(Recipe.model_validate(raw)).warnings
    assert any("stage1 needs" in warning and "activation_checkpointing: true" in warning for warning in warnings)


def test_what_is_not_known_is_not_invented() -> None:
    raw = load_recipe("paper").model_dump(mode="json")
    raw["data"]["pretrain"]["expected_records"] = None
    recipe = Recipe.model_validate(raw)
    found = costs(recipe)
    step = next(s for s in found.steps if s.key == "stage1")
    assert "samples" not in step.figures
    assert "peak" in step.figures, "memory does not depend on the number of rows"
    assert figure(found, "pack-pretrain", "samples") is None
    said = costs(recipe, given=Given({"pretrain": 1280 + 256}, {"pretrain": 100.0}))
    assert figure(said, "stage1", "samples") == 1280 + 128
    assert figure(said, "pack-pretrain", "tokens") == (1280 + 256) * 100


def test_twice_the_cards_take_half_the_time() -> None:
    recipe = load_recipe("paper")
    four, eight = (figure(costs(recipe, f"{count}xH100-80G"), "stage4", "time") for count in (4, 8))
    assert four == pytest.approx(2 * (eight or 0))


def test_a_store_that_is_too_small_is_told() -> None:
    assert any("the store needs" in text for text in costs(load_recipe("paper"), free=10**9).warnings)
    assert not any("the store needs" in text for text in costs(load_recipe("paper"), free=10**15).warnings)


def test_a_cached_step_costs_nothing() -> None:
    recipe = load_recipe("miniature")
    verdicts = [Verdict(step, "cached", "") for step in planned(recipe)]
    found = estimate(recipe, verdicts, {}, student_of(recipe), cluster("cpu"), NOTHING, None, None)
    assert all(not step.figures for step in found.steps)
    assert [total.value for total in found.totals] == [0, 0, 0]


@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    epochs=st.integers(1, 3),
    batch=st.integers(1, 40),
    most=st.none() | st.integers(1, 9),
    tail=st.sampled_from(["drop", "keep"]),
)
def test_steps_are_those_of_the_order(sizes: list[int], epochs: int, batch: int, most: int | None, tail: str) -> None:
    rows = sum(sizes)
    config = StageConfig(epochs=epochs, global_batch=batch, max_steps=most, tail=tail, held_out=0)  # type: ignore[arg-type]
    told, _ = steps_of(config, STAGES["stage4"], Amount(rows, rows, 10, 5, 1, "made up"))
    try:
        order = SampleOrder([np.arange(n) for n in sizes], 0, epochs, batch, most, tail=config.tail)
    except ConfigError:
        assert told == 0
    else:
        assert told == order.steps


def test_a_pack_tells_rows_tokens_and_size(tmp_path: Path) -> None:
    step = planned()["pack-pretrain"]
    spec = step.spec.model_copy(update={"inputs": {}})
    ref = step.ref.model_copy(update={"id": spec.id()})
    staging = Staging(ArtifactStore(str(tmp_path)), ref, spec, 0, {})
    staging.write_bytes("part.bin", b"x" * 1000)
    facts = {"tokens": 700, "target_tokens": 210, "with_image": 6, "text_only": 4}
    pack = staging.publish(Counts(unit="record", rows_in=10, rows_out=10), facts)
    found = amounts(load_recipe("miniature"), {"pack-pretrain": pack}, NOTHING)["pretrain"]
    assert (found.records, found.images, found.tokens, found.targets, found.bytes) == (10, 6, 70, 21, 1000)
    assert found.assumed == ""
    more = amounts(load_recipe("miniature"), {"pack-pretrain": pack}, Given({"pretrain": 20}, {}))["pretrain"]
    assert (more.records, more.images, more.bytes) == (20, 12, 2000)


def test_a_calibration_is_used_where_it_holds(tmp_path: Path) -> None:
    recipe = load_recipe("miniature")
    student = student_of(recipe)
    measured = Calibration(
        measured="2030-01-02T03:04", machine="here", flops={"stage1": 1e9, "stage2": 1e9}, start_seconds=7
    )
    file = calibration_file(tmp_path, recipe, student, "here")
    assert read_calibration(file) is None
    write_calibration(file, measured)
    assert read_calibration(file) == measured
    assert calibration_file(tmp_path, recipe, student, "elsewhere") != file
    assert calibration_file(tmp_path, recipe, replace(student, sizes=replace(student.sizes, hidden=8)), "here") != file
    found = costs(recipe, "cpu", calibration=measured)
    flops = figure(found, "stage1", "FLOPs")
    assert figure(found, "stage1", "time") == pytest.approx(7 + (flops or 0) / 1e9)
    told = next(s for s in found.steps if s.key == "stage1").figures["time"].how
    assert "measured 2030-01-02 on here" in told
    file.write_text("damaged")
    assert read_calibration(file) is None


@pytest.mark.parametrize("card", CARDS)
def test_every_card_has_a_peak(card: str) -> None:
    found = cluster(f"2x{card}")
    assert found.devices == 2
    assert found.peak > 1e14
    assert found.usable < found.memory


@pytest.mark.parametrize("text", ["8xA100", "0xH200", "many", "x"])
def test_an_unknown_cluster_names_the_cards(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not known; write 'cpu' or NxCARD.*A100-80G"):
        cluster(text)


def test_quantities_are_short() -> None:
    assert [quantity(9_999_616, "samples"), quantity(2_500_000, "samples"), quantity(None, "tokens")] == [
        "10.0M", "2.50M", "?",
    ]  # fmt: skip
    assert [quantity(3 * 2**30, "bytes"), quantity(7200, "s"), quantity(6e18, "FLOP")] == [
        "3.00 GiB", "2.0 h", "6.00 EFLOP",
    ]  # fmt: skip


def test_the_totals_of_figures_that_are_not_known_are_not_zero() -> None:
    totals = {
        figure.name: figure.text
        for figure in costs(load_recipe("photos").override(teacher={"kind": "florence_sam"})).totals
    }
    assert (totals["FLOPs"], totals["time"]) == ("?", "?")


def test_a_checkpoint_has_the_trained_parameters_alone() -> None:
    """And the artifact has AdamW's moments too."""
    student = student_of(load_recipe("paper"))
    trained = sum(student.trainable(STAGES["stage1"]).values())
    expected = 4 * student.total + 8 * trained + 2 * 12 * trained
    assert figure(costs(load_recipe("paper")), "stage1", "storage") == expected
