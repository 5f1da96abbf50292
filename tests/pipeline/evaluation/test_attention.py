"""Attention inside the true mask, with expected values worked out by hand."""

from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.attention import AttentionInMask
from pipeline.evaluation.questions import Attention, Prediction, Question


def looked(number: int, maps: Any, valid: Any, truth: Any) -> Prediction:
    question = Question(f"s{number}", 0, "?", "Yes.", "a.jpg", f"sha{number}", 4, 4, None)
    true_cells = None if truth is None else np.array(truth, dtype=bool)
    return Prediction(
        question, "", Attention(np.array(maps, dtype=np.float32), np.array(valid, dtype=bool), true_cells)
    )


def test_mass_chance_pointing_and_padding() -> None:
    first = looked(0, [[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4]], [1, 1, 1, 0], [1, 0, 0, 0])
    second = looked(1, [[0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]], [1, 1, 1, 1], [0, 1, 1, 0])
    absent = looked(2, [[1, 0, 0, 0], [1, 0, 0, 0]], [1, 1, 1, 1], None)
    result = AttentionInMask().score([first, second, absent])
    found = {score.metric: score for score in result.scores}
    assert found["in_mask"].estimate.value == pytest.approx(((0.5 + 0.1) / 2 + (1.0 + 0.5) / 2) / 2)
    assert found["in_mask"].chance == pytest.approx((1 / 3 + 2 / 4) / 2)
    # In the first question's second layer the largest value is on padding; of four equal cells the first is taken.
    assert found["pointing"].estimate.value == pytest.approx(((1 + 0) / 2 + (1 + 0) / 2) / 2)
    assert found["on_padding"].estimate.value == pytest.approx((0.4 / 2 + 0) / 2)
    assert found["in_mask"].estimate.n == 2
    assert result.scored == {"s0/0", "s1/0"}
    assert result.details["per_layer"]["in_mask"] == pytest.approx([0.75, 0.3])
    assert result.table["layer"].to_pylist() == [0, 1, 0, 1]


def test_uniform_attention_scores_at_chance() -> None:
    predictions = []
    for i in range(1, 8):
        valid = np.arange(9) < 8
        maps = np.where(valid, 1 / 8, 0)[None]
        predictions.append(looked(i, maps, valid, np.arange(9) < i))
    score = AttentionInMask().score(predictions).scores[0]
    assert score.chance == pytest.approx(score.estimate.value)


def test_no_question_with_a_known_mask_gives_no_score() -> None:
    result = AttentionInMask().score([looked(0, [[1.0]], [1], None)])
    assert result.scores == []
    assert result.scored == frozenset()
    assert len(result.table) == 0
