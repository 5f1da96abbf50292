"""The first sentences of the page: their verdicts follow the intervals."""

import pytest

from pipeline.evaluation.intervals import Estimate
from pipeline.report.answer import answer_findings
from pipeline.report.differences import Difference
from pipeline.report.evaluation import EvaluationSection, Score

YES_NO, OPEN = ("existence", "accuracy"), ("existence", "open_exact_match")


def score(variant: str, value: float, measure: tuple[str, str] = YES_NO) -> Score:
    benchmark, metric = measure
    chance = 0.5 if measure == YES_NO else None
    return {"benchmark": benchmark, "metric": metric, "variant": variant, "value": value, "n": 1214,
            "chance": chance, "chance_name": "always the same answer"}  # fmt: skip


def gain(variant: str, low: float, high: float, measure: tuple[str, str] = YES_NO) -> Difference:
    middle = (low + high) / 2
    return Difference(measure, variant, "ca_baseline", Estimate(middle, 0.1, low, high, 1214))


def section(scores: list[list[Score]], gains: list[Difference]) -> EvaluationSection:
    return EvaluationSection(
        asked=[], overlap=None, scores=scores, charts=[], differences=gains, difference_charts=[], layers=[],
        layer_rows=[], examples=[], map_layer="", cut_note="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.3, "yes"),
        (-0.1, 0.3, "not clearly"),
        (-0.3, -0.1, "no, it harms"),
        (0.0, 0.3, "not clearly"),
        (-0.3, 0.0, "not clearly"),
    ],
)
def test_the_verdict_is_that_of_the_interval(low: float, high: float, verdict: str) -> None:
    scores = [score("ca_baseline", 0.6), score("age_vlm_lm", 0.8)]
    (found,) = answer_findings(section([scores], [gain("age_vlm_lm", low, high)]))
    assert found.startswith(f"Does guided attention help to answer yes/no questions? AGE-VLM-LM {verdict}: ")


def test_every_number_is_in_the_sentence() -> None:
    scores = [score("ca_baseline", 0.6), score("age_vlm", 0.55), score("age_vlm_lm", 0.8)]
    gains = [gain("age_vlm", -0.14, 0.04), gain("age_vlm_lm", 0.1, 0.3)]
    (found,) = answer_findings(section([scores], gains))
    assert found == (
        "Does guided attention help to answer yes/no questions? AGE-VLM not clearly, AGE-VLM-LM yes: CA-Baseline "
        "answers 0.60 of 1\u202f214 right (always the same answer: 0.50); AGE-VLM 0.55, \u22120.05 [\u22120.14, +0.04] "
        "(the interval includes 0); AGE-VLM-LM 0.80, +0.20 [+0.10, +0.30] on the same questions."
    )


def test_each_kind_of_question_has_its_own_answer() -> None:
    scores = [[score(v, 0.5, m) for v in ("ca_baseline", "age_vlm")] for m in (YES_NO, OPEN)]
    gains = [gain("age_vlm", 0.1, 0.3), gain("age_vlm", -0.3, -0.1, OPEN)]
    first, second = answer_findings(section(scores, gains))
    assert "yes/no questions? AGE-VLM yes:" in first
    assert "open questions? AGE-VLM no, it harms:" in second


def test_without_the_unguided_variant_there_is_no_answer() -> None:
    gains = [Difference(YES_NO, "age_vlm_lm", "age_vlm", Estimate(0.2, 0.1, 0.1, 0.3, 9))]
    assert answer_findings(section([[score("age_vlm", 0.5), score("age_vlm_lm", 0.7)]], gains)) == []
    assert answer_findings(section([[score("ca_baseline", 0.5)]], [])) == []
