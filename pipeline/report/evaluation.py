"""What the evaluations say: scores with intervals beside chance, and the variants' answers and maps side by side."""

import json
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from model.errors import ArtifactError
from pipeline.report.collect import Run, StepView, layer_names, variant_name
from pipeline.report.comparison import Difference, difference_charts, differences
from pipeline.report.figures import Interval, dot_chart
from pipeline.report.overlap import Overlap, overlap_of, overlap_words
from pipeline.report.overlays import shrink
from pipeline.report.page import CUT, cut

SCORES, EXAMPLES = "scores.json", "examples.json"
# In the table of all scores, but no chart: they say how the charted ones come about.
TABLE_ONLY = frozenset({"f1", "precision", "recall", "yes_ratio", "on_padding"})


@dataclass(frozen=True)
class Score:
    """One number about one variant, with its 95 % interval."""

    variant: str
    name: str
    benchmark: str
    metric: str
    title: str
    value: float
    low: float
    high: float
    error: float
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
    variants: tuple[VariantAnswer, ...]

    @property
    def cut(self) -> bool:
        """Whether one of its texts is too long to be shown whole."""
        return cut(self.question, self.reference, *(v.answer for v in self.variants))


@dataclass(frozen=True)
class LayerTable:
    """Attention inside the object, per cross-attention layer and variant."""

    layers: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[float, ...]], ...]  # variant, its name, one value per layer


@dataclass(frozen=True)
class Evaluation:
    """The section on the page."""

    text: str
    overlap: Overlap | None
    charts: list[tuple[str, Markup]]
    differences: list[Difference]
    difference_charts: list[tuple[str, Markup]]
    table: list[Score]
    layers: LayerTable | None
    examples: list[Example]
    map_note: str


def evaluation_of(run: Run, limit: int) -> Evaluation | None:
    """The evaluations of all variants, at most `limit` examples; None if the run has none."""
    views = run.of_kind("evaluation")
    if not views:
        return None
    found = [score for view in views for score in scores_of(view)]
    order = {key: i for i, key in enumerate(dict.fromkeys((s.benchmark, s.metric) for s in found))}
    scores = sorted(found, key=lambda s: order[s.benchmark, s.metric])
    asked = " and ".join(str(n) for n in sorted({view.counts.rows_out for view in views}))
    gains = differences(views)
    examples, layer = _examples(run, views, limit)
    overlap = overlap_of(run)
    return Evaluation(
        text=(
            f"{'Each variant' if len(views) > 1 else 'The variant'} answered {asked} questions. "
            f"{overlap_words(overlap)} Dots are the scores, bars their 95 % intervals (bootstrap over images); the "
            "dashed line is what needs no look at the image. Attention counts as inside the object on every cell of "
            "the cross-attention's grid that the object touches."
        ),
        overlap=overlap,
        charts=charts(scores),
        differences=gains,
        difference_charts=difference_charts(gains),
        table=scores,
        layers=_layer_table(run, views),
        examples=examples,
        map_note=(
            f"Attention of the question's tokens in the cross-attention of {layer}, mean over heads; lighter is more, "
            "each map on a scale of its own. The white line is the true object. Questions chosen by a hash, the same "
            f"for every variant.{f' {CUT}' if any(e.cut for e in examples) else ''}"
        ),
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
            title=item["title"],
            value=item["value"],
            low=item["low"],
            high=item["high"],
            error=item["standard_error"],
            n=item["n"],
            chance=item["chance"],
            chance_name=item["chance_name"] or "chance",
        )
        for item in _read(view, SCORES)["scores"]
    ]


def charts(scores: list[Score]) -> list[tuple[str, Markup]]:
    """One chart per score that is worth one, one row per variant."""
    made = []
    for key in dict.fromkeys((s.benchmark, s.metric) for s in scores):
        group = [s for s in scores if (s.benchmark, s.metric) == key]
        if key[1] in TABLE_ONLY:
            continue
        chances = {s.chance for s in group}
        chance = chances.pop() if len(chances) == 1 else None
        rows = [Interval(s.name, f"c-{s.variant}", s.value, s.low, s.high, f"{s.value:.3f}  n = {s.n}") for s in group]
        title = f"{group[0].title[:1].upper()}{group[0].title[1:]}"
        chart = dot_chart(
            title,
            rows,
            x_label="share of questions" if group[0].benchmark == "existence" else "share",
            chance=(chance, f"{group[0].chance_name} {chance:.2f}") if chance is not None else None,
            unit_range=all(r.low >= 0 and r.high <= 1 for r in rows),
        )
        made.append((title, chart))
    return made


def _layer_table(run: Run, views: list[StepView]) -> LayerTable | None:
    rows = []
    for view in views:
        values = _read(view, SCORES).get("details", {}).get("attention", {}).get("per_layer", {}).get("in_mask")
        if values:
            rows.append((view.artifact.ref.name, variant_name(view.artifact.ref.name), tuple(values)))
    if not rows:
        return None
    count = max(len(values) for _, _, values in rows)
    return LayerTable(tuple(layer_names(run, count)), tuple(rows))


def _examples(run: Run, views: list[StepView], limit: int) -> tuple[list[Example], str]:
    """The examples that every variant has, in the first variant's order, and the layer that their maps show."""
    found = {v.artifact.ref.name: {e["id"]: e for e in _read(v, EXAMPLES)["examples"]} for v in views}
    by_name = {v.artifact.ref.name: v for v in views}
    first, view = found[views[0].artifact.ref.name], views[0]
    shared = [key for key in first if all(key in examples for examples in found.values())][:limit]
    made = [
        Example(
            question=first[key]["question"],
            reference=first[key]["reference"],
            note=_note(first[key]),
            picture=_picture(view, first[key].get("image")),
            variants=tuple(_answer(by_name[name], examples[key]) for name, examples in found.items()),
        )
        for key in shared
    ]
    layers = {first[key].get("layer", 0) for key in shared} or {0}
    names = layer_names(run, max(layers) + 1)
    return made, ", ".join(names[i] for i in sorted(layers))


def _note(example: dict[str, Any]) -> str:
    if example.get("present") is False:
        return "What is asked about is not in the image."
    if example.get("chance") is not None:
        covered = f"{100 * example['chance']:.0f}\u202f%"
        return f"The object touches {covered} of the image's cells: attention spread evenly would put as much there."
    return ""


def _answer(view: StepView, example: dict[str, Any]) -> VariantAnswer:
    variant = view.artifact.ref.name
    correct, mass = example.get("correct"), example.get("mass")
    return VariantAnswer(
        variant=variant,
        name=variant_name(variant),
        answer=example["answer"] or "(empty answer)",
        mark="" if correct is None else ("\u2713 right" if correct else "\u2717 wrong"),
        note="" if mass is None else f"{100 * mass:.0f}\u202f% of the attention inside the object",
        map=_picture(view, example.get("map")),
    )


def _picture(view: StepView, file: str | None) -> str | None:
    if not file:
        return None
    with view.artifact.open(file) as stream:
        return shrink(stream.read())


def _read(view: StepView, file: str) -> dict[str, Any]:
    with view.artifact.open(file) as stream:
        value = json.loads(stream.read())
    if not isinstance(value, dict):
        raise ArtifactError(f"{view.artifact.ref}: {file} must hold an object; run the step 'evaluate' again")
    return value
