"""Curves and sentences about training."""

import math
from dataclasses import replace

import pytest

from pipeline.report.formatting import signed
from pipeline.report.training import StageCurves, guidance_charts, loss_charts, mass_charts

NAN = math.nan


def stage(mass: tuple[tuple[float, ...], ...], guided: tuple[int, ...]) -> StageCurves:
    steps = tuple(float(i) for i in range(len(guided)))
    return StageCurves(
        view=None,  # type: ignore[arg-type]
        row="stage3",
        stage="Stage 3",
        label="AGE-VLM",
        colour="c-age_vlm",
        steps=steps,
        lm_loss=tuple(1.0 for _ in guided),
        guidance_loss=tuple(NAN if not rows else 2.0 for rows in guided),
        mass=mass,
        padding=(),
        guided=guided,
        layers=tuple(f"layer {i}" for i in range(len(mass))),
    )


def test_the_thirds_weigh_records_by_their_guided_rows() -> None:
    found = stage(((0.1, 0.5, 0.3, 0.3, 0.8, 0.6),), (1, 3, 9, 9, 1, 3))
    assert found.first_and_last_mass == [(pytest.approx(0.4), pytest.approx(0.65))]
    assert found.guided_rows == 26
    assert "layer 0 from 40 to 65" in found.finding
    assert "of 26 guided rows" in found.finding


def test_records_without_guided_rows_do_not_count() -> None:
    found = stage(((NAN, 0.2, NAN, 0.4, 0.6, NAN),), (0, 2, 0, 2, 2, 0))
    assert found.first_and_last_mass == [(pytest.approx(0.2), pytest.approx(0.6))]


@pytest.mark.parametrize(
    ("mass", "guided"), [((), (0, 0, 0)), (((0.1, 0.2),), (1, 1)), (((NAN, NAN, NAN),), (0, 0, 0))]
)
def test_too_little_guidance_is_no_finding_and_no_chart(
    mass: tuple[tuple[float, ...], ...], guided: tuple[int, ...]
) -> None:
    found = stage(mass, guided)
    assert found.finding == ""
    if not any(guided):
        assert guidance_charts([found]) == mass_charts([found]) == []
    assert [title for title, _ in loss_charts([found])] == ["Stage 3"]


def test_a_difference_that_rounds_to_zero_has_no_sign() -> None:
    assert [signed(v) for v in (0.126, -0.126, -0.004, 0.0)] == ["+0.13", "\u22120.13", "0.00", "0.00"]


def test_held_out_losses_are_a_line_of_their_own_through_the_steps_where_they_were_measured() -> None:
    found = replace(stage((), (0,) * 6), held_out=(NAN, 2.5, NAN, 2.25, NAN, NAN))
    ((title, chart),) = loss_charts([found])
    assert title == "Stage 3"
    assert "AGE-VLM ends at 1; AGE-VLM, held out ends at 2.25" in chart
    assert chart.count("c-age_vlm dashed") >= 1
    assert found.final_held_out == 2.25
    once = replace(found, held_out=(NAN,) * 5 + (2.5,))
    assert "held out" not in loss_charts([once])[0][1]  # a point is no line; the table has its value


def test_figures_of_batches_in_words() -> None:
    order = {
        "padding": {"unsorted": 0.4, "sorted": 0.06},
        "guided": {"mean": 3.9, "deviation": 1.8, "binomial_deviation": 1.94, "longest_gap": 1},
    }
    words = replace(stage((), (0,)), order=order).order_words.replace("\u202f", " ").replace("\u00b1", "+-")
    assert words == (
        "padding 6 % of the tokens (40 % unsorted); guided rows per batch 3.9 +- 1.8 (by chance alone +- 1.9)"
    )
    assert stage((), (0,)).order_words == ""
