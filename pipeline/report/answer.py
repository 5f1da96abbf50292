"""The page's first sentences: the answer to the paper's question, if guided attention helps the student to answer."""

from pipeline.report.collect import variant_name
from pipeline.report.differences import Difference, Measure
from pipeline.report.evaluation import EvaluationSection, Score
from pipeline.report.formatting import capital, count

UNGUIDED = "ca_baseline"
QUESTIONS: dict[Measure, str] = {
    ("existence", "accuracy"): "yes/no questions",
    ("existence", "open_exact_match"): "open questions",
}
"""Measures of answers -> the questions that they are about."""


def answer_findings(evaluation: EvaluationSection) -> list[str]:
    """One sentence per kind of question; none without the unguided variant and one to compare it with."""
    found = []
    for measure, questions in QUESTIONS.items():
        group = next((g for g in evaluation.scores if (g[0]["benchmark"], g[0]["metric"]) == measure), None)
        gains = [d for d in evaluation.differences if d.measure == measure and d.base == UNGUIDED]
        if group and gains:
            found.append(_sentence(questions, group, gains))
    return found


def _sentence(questions: str, group: list[Score], gains: list[Difference]) -> str:
    """'Does guided attention help to answer yes/no questions? AGE-VLM-LM yes, AGE-VLM not clearly: CA-Baseline ...'."""
    base = next(s for s in group if s["variant"] == UNGUIDED)
    verdicts = ", ".join(f"{variant_name(d.variant)} {_verdict(d)}" for d in gains)
    values = {s["variant"]: s["value"] for s in group}
    changes = "; ".join(f"{variant_name(d.variant)} {values[d.variant]:.2f}, {d.interval}" for d in gains)
    chance = f" ({base['chance_name']}: {base['chance']:.2f})" if base["chance"] is not None else ""
    return (
        f"Does guided attention help to answer {questions}? {capital(verdicts)}: {variant_name(UNGUIDED)} answers "
        f"{base['value']:.2f} of {count(base['n'])} right{chance}; {changes} on the same questions."
    )


def _verdict(gain: Difference) -> str:
    if gain.estimate.low > 0:
        return "yes"
    return "no, it harms" if gain.estimate.high < 0 else "not clearly"
