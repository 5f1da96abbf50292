"""Yes/no questions scored as in POPE, open ones by exact match."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.existence import Existence, expected_answer, normalised, yes_or_no
from pipeline.evaluation.questions import Attention, Prediction, Question
from pipeline.evaluation.scores import Result

NOWHERE = Attention(np.ones((1, 4), np.float32) / 4, np.ones(4, bool), None)


def asked(number: int, reference: str, answer: str, image: str = "") -> Prediction:
    question = Question(f"s{number}", 0, "?", reference, "a.jpg", image or f"sha{number}", 4, 4, None)
    return Prediction(question, answer, NOWHERE)


def values(result: Result) -> dict[str, Any]:
    return {score.metric: score.estimate.value for score in result.scores}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes, there is a laptop.", "yes"),
        ("no", "no"),
        ("No. Yes.", "no"),
        ("There is no laptop here", "no"),
        ("It does not show one. Yes", "no"),
        ("There isn't one", "no"),
        ("I would say yes", "yes"),
        ("Certainly! Yes.", "unparsed"),
        ("yes or no", "yes"),  # the first word decides
        ("It is yes or no", "unparsed"),
        ("A dog on a sofa", "unparsed"),
        ("0", "unparsed"),
        ("", "unparsed"),
        ("know", "unparsed"),  # 'no' only as a word
        ("I don't know.", "unparsed"),
        ("I don\u2019t know.", "unparsed"),
        ("It is not clear.", "unparsed"),
        ("It's not entirely clear whether there is one", "unparsed"),
        ("I cannot tell", "unparsed"),
        ("I can't be sure, but no", "unparsed"),
        ("I am not sure. No.", "unparsed"),
        ("I don\u2019t see it", "no"),
        ("I cannot see a dog", "no"),
        ("It is clear that there is no dog", "no"),  # the negation is not about knowing
        ("It is clearly not there", "no"),
        ("No idea", "no"),  # the first word decides
    ],
)
def test_answers_are_parsed_as_yes_no_or_neither(answer: str, said: str) -> None:
    assert yes_or_no(answer) == said


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("Yes, there is.", "yes"),
        ("no", "no"),
        (" No. ", "no"),
        ("No. There is none.", "no"),
        ("Yes; two of them", "yes"),
        ("No \u2014 it is a cat", "no"),
        ("Yes - it is", "yes"),
        ("YES!", "yes"),
        ("Yes (two)", "yes"),
        ("Nobody is there.", None),
        ("The circle is red.", None),
        ("No smoking", None),
        ("No. 5", None),
        ("No.5", None),
        ("No-one", None),
        ("Yes Bank", None),
        ("", None),
    ],
)
def test_yes_no_questions_are_known_by_their_reference(reference: str, expected: str | None) -> None:
    assert expected_answer(reference) == expected


@given(
    st.sampled_from(["yes", "no"]), st.sampled_from(["", ".", ",", "!", ";"]), st.sampled_from([str.lower, str.title])
)
def test_yes_and_no_alone_are_parsed_alike_as_reference_and_as_answer(word: str, mark: str, case: Any) -> None:
    assert expected_answer(case(word) + mark) == yes_or_no(case(word) + mark) == word


def test_scores_worked_out_by_hand() -> None:
    predictions = [
        asked(0, "Yes.", "yes"),  # true positive
        asked(1, "Yes.", "yes"),
        asked(2, "Yes.", "no"),  # false negative
        asked(3, "Yes.", "hm"),  # unparsed: wrong, neither
        asked(4, "No.", "no"),  # true negative
        asked(5, "No.", "yes"),  # false positive
        asked(6, "No.", "hm"),
        asked(7, "Two.", " two "),
        asked(8, "Two.", "three"),
    ]
    result = Existence().score(predictions)
    found = values(result)
    assert found["accuracy"] == pytest.approx(3 / 7)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 4)
    assert found["f1"] == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert found["yes_ratio"] == pytest.approx(3 / 7)
    assert found["open_exact_match"] == pytest.approx(1 / 2)
    numbers = {score.metric: score.estimate.n for score in result.scores}
    assert numbers == {"accuracy": 7, "f1": 7, "precision": 3, "recall": 4, "yes_ratio": 7, "open_exact_match": 2}
    assert result.details == {"yes_no_questions": 7, "open_questions": 2, "unparsed": 2}
    assert len(result.scored) == len(result.table) == 9
    assert result.table["said"].to_pylist()[-1] is None
    accuracy = next(s for s in result.scores if s.metric == "accuracy")
    assert accuracy.chance == pytest.approx(4 / 7)
    assert accuracy.estimate.low < 3 / 7 < accuracy.estimate.high


def test_a_model_that_always_says_yes_scores_at_chance() -> None:
    result = Existence().score([asked(i, "Yes." if i % 2 else "No.", "Yes.") for i in range(10)])
    for score in result.scores:
        if score.chance is not None:
            assert score.estimate.value == pytest.approx(score.chance)


def test_undefined_scores_are_left_out() -> None:
    never_yes = Existence().score([asked(0, "No.", "no"), asked(1, "No.", "no")])
    assert "precision" not in values(never_yes)
    assert "recall" not in values(never_yes)
    assert values(Existence().score([asked(0, "Red.", "Red.")])) == {"open_exact_match": 1.0}
    assert Existence().score([]).scores == []


def test_exact_match_ignores_only_case_spaces_and_outer_punctuation() -> None:
    assert normalised("The  circle, is RED.") == normalised("the circle is red")
    assert normalised("the circle is red") != normalised("the circle is blue")
    assert normalised("10.5 m") != normalised("105 m")
