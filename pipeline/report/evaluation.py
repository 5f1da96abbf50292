"""What the evaluations say: scores with intervals beside chance, and the variants' answers and maps side by side."""

import json
import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from model.errors import ArtifactError
from pipeline.report.collect import Run, StepView, variant_name
from pipeline.report.figures import Interval, dot_chart
from pipeline.report.overlays import shrink

SCORES, EXAMPLES = "scores.json", "examples.json"
NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Score:
    """One number about one variant."""

    variant: str
    name: str
    benchmark: str
    metric: str
    title: str
    value: float
    low: float | None  # of the 95 % interval
    high: float | None
    error: float | None
    n: int
    chance: float | None
    chance_name: str


@dataclass(frozen=True)
class VariantAnswer:
    """What one variant made of an example."""

    variant: str
    name: str
    answer: str
    mark: str
    note: str
    map: str | None


@dataclass(frozen=True)
class Example:
    """A question with its reference answer and every variant's."""

    question: str
    reference: str
    note: str
    picture: str | None
    picture_note: str
    variants: tuple[VariantAnswer, ...]


@dataclass(frozen=True)
class Evaluation:
    """The section on the page."""

    text: str
    charts: list[tuple[str, str, Markup]]
    table: list[Score]
    examples: list[Example]
    map_note: str


def evaluation_of(run: Run, limit: int) -> Evaluation | None:
    """The evaluations of all variants, at most `limit` examples; None if the run has none."""
    views = run.of_kind("evaluation")
    if not views:
        return None
    scores = [score for view in views for score in scores_of(view)]
    questions = {view.counts.rows_out for view in views}
    asked = f"{questions.pop()}" if len(questions) == 1 else "the"
    return Evaluation(
        text=(
            f"Each variant answered the same {asked} questions about images that no stage was trained on. "
            "Dots are the scores, bars their 95 % intervals, the dashed line is what chance would score."
        ),
        charts=charts(scores),
        table=scores,
        examples=_examples(run, views, limit),
        map_note="",
    )


def scores_of(view: StepView) -> list[Score]:
    """The scores of one evaluation."""
    variant = view.artifact.ref.name
    return [
        Score(
            variant=variant,
            name=variant_name(variant),
            benchmark=item["benchmark"],
            metric=item["metric"],
            title=item.get("title") or f"{item['benchmark']}: {item['metric']}".replace("_", " "),
            value=float(item["value"]),
            low=item.get("low"),
            high=item.get("high"),
            error=item.get("standard_error"),
            n=int(item["n"]),
            chance=item.get("chance"),
            chance_name=item.get("chance_name") or "chance",
        )
        for item in _read(view, SCORES)["scores"]
    ]


def charts(scores: list[Score]) -> list[tuple[str, str, Markup]]:
    """One chart per score, one row per variant: (title, note, chart)."""
    made = []
    for key in dict.fromkeys((s.benchmark, s.metric) for s in scores):
        group = [s for s in scores if (s.benchmark, s.metric) == key]
        chances = {s.chance for s in group}
        chance = chances.pop() if len(chances) == 1 else None
        rows = [Interval(s.name, f"c-{s.variant}", s.value, *_bounds(s), f"{s.value:.3f}  n = {s.n}") for s in group]
        inside = all(r.low >= 0 and r.high <= 1 for r in rows)
        chart = dot_chart(
            group[0].title,
            rows,
            x_label=group[0].title,
            chance=(chance, f"{group[0].chance_name} {chance:.2f}") if chance is not None else None,
            unit_range=inside,
        )
        made.append((group[0].title[:1].upper() + group[0].title[1:], "", chart))
    return made


def separated(first: Score, second: Score) -> bool:
    """Whether the 95 % interval of the two variants' difference leaves out zero.

    Taken from the standard errors as if the two were independent; on the same questions they are not, and the true
    interval is usually narrower: what is called separate here would be so there too.
    """
    if first.error is None or second.error is None:
        return False
    return abs(first.value - second.value) > NORMAL_95 * math.hypot(first.error, second.error)


def _bounds(score: Score) -> tuple[float, float]:
    low = score.value if score.low is None else float(score.low)
    high = score.value if score.high is None else float(score.high)
    return low, high


def _examples(run: Run, views: list[StepView], limit: int) -> list[Example]:
    """The examples that every variant has, in the first variant's order, yes and no answers both among the first."""
    by_variant = {v.artifact.ref.name: {e["id"]: e for e in _read(v, EXAMPLES)["examples"]} for v in views}
    files = {v.artifact.ref.name: v for v in views}
    first = by_variant[views[0].artifact.ref.name]
    shared = [key for key in first if all(key in found for found in by_variant.values())]
    made = []
    for key in shared[:limit]:
        example = first[key]
        made.append(
            Example(
                question=example["question"],
                reference=example["reference"],
                note=example.get("note", ""),
                picture=None,
                picture_note="",
                variants=tuple(_answer(files[v], found[key]) for v, found in by_variant.items()),
            )
        )
    return made


def _answer(view: StepView, example: dict[str, Any]) -> VariantAnswer:
    variant, file = view.artifact.ref.name, example.get("map")
    picture = None
    if file:
        with view.artifact.open(file) as stream:
            picture = shrink(stream.read())
    correct, mass = example.get("correct"), example.get("mass")
    return VariantAnswer(
        variant=variant,
        name=variant_name(variant),
        answer=example["answer"],
        mark="" if correct is None else ("\u2713 right" if correct else "\u2717 wrong"),
        note="" if mass is None else f"{100 * mass:.0f}\u202f% of the attention inside the object",
        map=picture,
    )


def _read(view: StepView, file: str) -> dict[str, Any]:
    with view.artifact.open(file) as stream:
        value = json.loads(stream.read())
    if not isinstance(value, dict):
        raise ArtifactError(f"{view.artifact.ref}: {file} must hold an object; run the step 'evaluate' again")
    return value
