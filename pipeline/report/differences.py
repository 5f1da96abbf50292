"""Differences between variants on the same questions, with intervals for paired values.

Two variants' scores move together from one choice of questions to another: an easy question is easy for both. So the
difference is taken question by question, and the bootstrap over images resamples these differences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.evaluation.intervals import Clusters, Estimate, ratio
from pipeline.report.charts.dot_chart import Interval, dot_chart
from pipeline.report.collect import StepView, read_rows, variant_name
from pipeline.report.formatting import capital, signed

Values = dict[str, tuple[str, float]]
"""Question -> its image and the variant's value."""


Measure = tuple[str, str]
"""Benchmark and metric of a score that is a mean over questions."""
MEASURES: dict[Measure, tuple[str, str, str | None]] = {
    ("existence", "accuracy"): ("predictions.parquet", "correct", "yes_no"),
    ("existence", "open_exact_match"): ("predictions.parquet", "correct", "open"),
    ("attention", "in_mask"): ("attention.parquet", "mass", None),
    ("attention", "pointing"): ("attention.parquet", "pointing", None),
}
"""Measure -> the table and the column with the questions' values, and the kind of the rows that count (None: all)."""


@dataclass(frozen=True)
class Difference:
    """A variant's gain over the variant that it is compared with."""

    measure: Measure
    variant: str
    base: str
    estimate: Estimate

    @property
    def interval(self) -> str:
        """'+0.10 [+0.02, +0.18]': the gain with its 95 % interval; says so where this includes zero."""
        e = self.estimate
        unclear = "" if e.low > 0 or e.high < 0 else " (the interval includes 0)"
        return f"{signed(e.value)} [{signed(e.low)}, {signed(e.high)}]{unclear}"

    @property
    def words(self) -> str:
        """The same after the variant's name."""
        return f"{variant_name(self.variant)} {self.interval}"


def differences(views: Sequence[StepView]) -> list[Difference]:
    """Every variant against the first one, per measure that both evaluations hold values for."""
    found = []
    for measure in MEASURES:
        values = {view.name: _values(view, measure) for view in views}
        base, *others = values
        for other in others:
            estimate = _paired(values[base], values[other])
            if estimate is not None:
                found.append(Difference(measure, other, base, estimate))
    return found


def difference_charts(found: Sequence[Difference], titles: Mapping[Measure, str]) -> list[tuple[str, Markup]]:
    """One chart per measure: the variants' differences to the first variant, with zero marked."""
    charts = []
    for measure in dict.fromkeys(d.measure for d in found):
        rows, title = [], capital(titles.get(measure, measure[1]))
        for d in (d for d in found if d.measure == measure):
            e = d.estimate
            text = f"{signed(e.value, 3)}  n = {e.n}"
            rows.append(Interval(variant_name(d.variant), f"c-{d.variant}", e.value, e.low, e.high, text))
        label, zero = f"difference to {variant_name(found[0].base)}", (0.0, "no difference")
        charts.append((title, dot_chart(title, rows, x_label=label, chance=zero, unit_range=False)))
    return charts


def _values(view: StepView, measure: Measure) -> Values:
    """The variant's value per question; the mean over layers where a question has one row per layer."""
    table, column, kind = MEASURES[measure]
    sums: dict[str, tuple[str, float, int]] = {}
    for row in read_rows(view.artifact, table, ["id", "image", column] + (["kind"] if kind else [])):
        if kind in (None, row.get("kind")):
            image, total, number = sums.get(row["id"], (row["image"], 0.0, 0))
            sums[row["id"]] = image, total + float(row[column]), number + 1
    return {key: (image, total / number) for key, (image, total, number) in sums.items()}


def _paired(base: Values, other: Values) -> Estimate | None:
    """The mean difference over the questions that both answered; None without any."""
    shared = sorted(base.keys() & other.keys())
    if not shared:
        return None
    gains = [(other[key][1] - base[key][1], 1.0) for key in shared]
    return Clusters([base[key][0] for key in shared], gains).estimate(lambda s: ratio(s[..., 0], s[..., 1]))
