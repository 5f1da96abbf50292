"""Differences between variants on the same questions, with intervals that know that they are the same questions.

Two variants' scores move together from one choice of questions to another: an easy question is easy for both. So the
difference is taken question by question, and the bootstrap over images is made of these differences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.evaluation.intervals import Clusters, Estimate, ratio
from pipeline.report.collect import StepView, read_rows, variant_name
from pipeline.report.figures import Interval, dot_chart

MINUS = "\u2212"
Values = dict[str, tuple[str, float]]  # question -> its image and the variant's value


@dataclass(frozen=True)
class Measure:
    """A score that is a mean over questions, and where the evaluation keeps the questions' values."""

    benchmark: str
    metric: str
    title: str
    table: str
    column: str
    kind: str | None = None  # only rows of this kind


MEASURES = (
    Measure("existence", "accuracy", "yes/no accuracy", "predictions.parquet", "correct", "yes_no"),
    Measure(
        "existence", "open_exact_match", "open questions answered exactly", "predictions.parquet", "correct", "open"
    ),
    Measure("attention", "in_mask", "attention inside the object", "attention.parquet", "mass"),
    Measure("attention", "pointing", "most attended cell inside the object", "attention.parquet", "pointing"),
)


@dataclass(frozen=True)
class Difference:
    """How much better a variant is than the one that it is compared with."""

    measure: Measure
    variant: str
    base: str
    estimate: Estimate

    @property
    def clear(self) -> bool:
        """Whether the 95 % interval leaves out zero."""
        return self.estimate.low > 0 or self.estimate.high < 0


def differences(views: Sequence[StepView]) -> list[Difference]:
    """Every variant against the first one, per measure that both evaluations hold values for."""
    found = []
    for measure in MEASURES:
        values = {view.artifact.ref.name: _values(view, measure) for view in views}
        base, *others = values
        for other in others:
            estimate = _paired(values[base], values[other])
            if estimate is not None:
                found.append(Difference(measure, other, base, estimate))
    return found


def difference_charts(found: Sequence[Difference]) -> list[tuple[str, Markup]]:
    """One chart per measure: the variants' differences to the first variant, zero marked."""
    charts = []
    for measure in dict.fromkeys(d.measure for d in found):
        group = [d for d in found if d.measure == measure]
        rows = [
            Interval(
                variant_name(d.variant),
                f"c-{d.variant}",
                d.estimate.value,
                d.estimate.low,
                d.estimate.high,
                f"{signed(d.estimate.value, 3)}  n = {d.estimate.n}",
            )
            for d in group
        ]
        title = f"{measure.title[:1].upper()}{measure.title[1:]}"
        base = variant_name(group[0].base)
        label = f"difference to {base}"
        charts.append((title, dot_chart(title, rows, x_label=label, chance=(0.0, "no difference"), unit_range=False)))
    return charts


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign; what rounds to zero has none."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else MINUS}{text}"


def finding(group: Sequence[Difference]) -> str:
    """A sentence about one measure's differences."""
    base = variant_name(group[0].base)
    parts = [
        f"{variant_name(d.variant)} {signed(d.estimate.value)} [{signed(d.estimate.low)}, {signed(d.estimate.high)}]"
        f"{'' if d.clear else ' (the interval includes 0)'}"
        for d in group
    ]
    return f"Against {base} on the same questions: {', '.join(parts)}."


def _values(view: StepView, measure: Measure) -> Values:
    """The variant's value per question; the mean over layers where a question has one row per layer."""
    if measure.table not in view.artifact.files:
        return {}
    sums: dict[str, tuple[str, float, int]] = {}
    columns = ["id", "image", measure.column] + (["kind"] if measure.kind else [])
    for row in read_rows(view.artifact, measure.table, columns):
        if measure.kind in (None, row.get("kind")):
            image, total, number = sums.get(row["id"], (row["image"], 0.0, 0))
            sums[row["id"]] = image, total + float(row[measure.column]), number + 1
    return {key: (image, total / number) for key, (image, total, number) in sums.items()}


def _paired(base: Values, other: Values) -> Estimate | None:
    """The mean difference over the questions that both answered; None without any."""
    shared = sorted(base.keys() & other.keys())
    if not shared:
        return None
    gains = [(other[key][1] - base[key][1], 1.0) for key in shared]
    return Clusters([base[key][0] for key in shared], gains).estimate(lambda s: ratio(s[..., 0], s[..., 1]))
