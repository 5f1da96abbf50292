"""Masks with a price: what the fitted half predicts holds on the other half."""

from itertools import pairwise

import numpy as np
import pytest

from pipeline.masks.candidates import MOST, Candidates
from pipeline.masks.config import MaskGates
from pipeline.masks.price import (
    LEVELS,
    PRECISIONS,
    SEARCHED,
    TOLERANCE,
    Price,
    judge,
    price_summary,
    price_table,
    tighten,
    wilson,
)
from tests.pipeline.masks.fixtures_candidates import noisy_candidates

BASE = MaskGates()


@pytest.mark.parametrize("seed", range(3))
def test_held_out_precision_is_within_the_tolerance_of_the_predicted_one(seed: int) -> None:
    prices = price_table(noisy_candidates(6000, seed), BASE)
    assert [(p.iou, p.wanted) for p in prices] == [(level, wanted) for level in LEVELS for wanted in PRECISIONS]
    for price in prices:
        assert price.predicted is not None
        assert price.held_out is not None
        assert price.predicted >= price.wanted
        assert abs(price.predicted - price.held_out) <= TOLERANCE
        assert price.verdict == "confirmed"


def test_a_price_is_that_of_its_own_gates() -> None:
    found = noisy_candidates(3000, 5)
    for price in price_table(found, BASE, [0.7], [0.9]):
        assert price.gates is not None
        setting = MaskGates(**price.gates)
        assert (setting.require_ended, setting.max_area) == (BASE.require_ended, BASE.max_area)
        for part, precision, kept in (
            (found.part(~found.held_out), price.predicted, price.kept),
            (found.part(found.held_out), price.held_out, price.held_out_kept),
        ):
            accepted, right = judge(part, setting, {name: getattr(setting, name) for name in SEARCHED}, 0.7)
            assert right[accepted].mean() == pytest.approx(precision, abs=1e-6)
            assert accepted.mean() == pytest.approx(kept, abs=1e-6)


def test_masks_of_absent_objects_are_wrong_ones() -> None:
    few = price_table(noisy_candidates(4000, 1, absent=0.0), BASE, [0.5], [0.9])[0]
    many = price_table(noisy_candidates(4000, 1, absent=0.5), BASE, [0.5], [0.9])[0]
    assert few.kept is not None
    assert many.kept is not None
    assert many.kept < few.kept - 0.2


def test_more_precision_keeps_fewer_masks() -> None:
    kept = [p.kept or 0.0 for p in price_table(noisy_candidates(6000, 2), BASE, [0.7], [0.6, 0.7, 0.8, 0.9, 0.95])]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1] + 0.1


def test_gates_that_nothing_is_gained_by_stay_open() -> None:
    perfect = noisy_candidates(400, 0, absent=0.0)
    perfect.iou[:, 1:] = 1.0
    price = price_table(perfect, MaskGates(require_ended=False), [0.8], [0.9])[0]
    assert price.gates is not None
    assert not any(price.gates[name] for name in SEARCHED)
    assert (price.predicted, price.kept) == (1.0, 1.0)


def test_a_precision_out_of_reach_has_no_gates() -> None:
    wrong = noisy_candidates(400, 0)
    wrong.iou[:] = 0.0
    price = price_table(wrong, BASE, [0.5], [0.9])[0]
    assert (price.gates, price.predicted, price.held_out) == (None, None, None)
    assert "no setting" in price.verdict


def test_few_masks_are_said_to_be_too_few() -> None:
    prices = price_table(noisy_candidates(300, 3), BASE, [0.5, 0.7], [0.8])
    assert all("too few held-out masks to tell: between" in price.verdict for price in prices)
    assert price_table(noisy_candidates(60, 3), BASE, [0.9], [0.99])[0].verdict == "too few masks to fit gates on"


def test_a_difference_that_is_no_luck_is_not_confirmed() -> None:
    assert Price(0.7, 0.9, {}, 0.9, 0.5, 0.8, 0.5, 0.79, 0.81, 9000, 9000).verdict == "not confirmed: differs by 0.10"


def test_a_teacher_without_figures_has_a_price_too() -> None:
    """All figures are null: no gate can be set, and the price of open gates is told."""
    blank = noisy_candidates(2000, 4, absent=0.0)
    figures = {name: np.where(values < 0, values, np.inf) for name, values in blank.figures.items()}
    whole = Candidates(np.full(len(blank), np.inf), blank.ended, figures, blank.area, blank.iou, blank.held_out)
    price = price_table(whole, MaskGates(), [0.5], [0.5])[0]
    assert price.gates is not None
    assert price.verdict == "confirmed"


def test_the_summary_counts_both_halves_and_nothing_gives_an_empty_table() -> None:
    found = noisy_candidates(300, 0)
    summary = price_summary(found, BASE)
    assert summary["masks"] == summary["fitted"] + summary["held_out"] == 300
    assert len(summary["prices"]) == len(LEVELS) * len(PRECISIONS)
    empty = found.part(np.zeros(len(found), dtype=bool))
    assert price_summary(empty, BASE) == {"masks": 0, "fitted": 0, "held_out": 0, "prices": []}
    assert price_table(found.part(np.array([0])), BASE, [0.5], [0.5])[0].verdict


def test_the_path_only_tightens_and_is_the_same_each_time() -> None:
    found = noisy_candidates(2000, 7)
    path = list(tighten(found, BASE, 0.7))
    assert path == list(tighten(found, BASE, 0.7))
    for before, after in pairwise(path):
        assert before != after
        assert all(after[gate] >= before[gate] for gate in SEARCHED)
    assert MOST == 4


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (45, 50), (900, 1000), (0, 0)])
def test_the_interval_holds_the_share(right: int, count: int) -> None:
    low, high = wilson(right, count)
    assert 0 <= low <= (right / count if count else 0.5) <= high <= 1
    assert wilson(45, 50) == pytest.approx((0.7864, 0.9565), abs=1e-3)  # published tables of Wilson's interval
