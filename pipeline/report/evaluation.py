"""The section on the evaluation: scores with intervals beside chance, and the variants' answers side by side."""

import json
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from model.errors import ArtifactError
from pipeline.report.charts.dot_chart import Interval, dot_chart
from pipeline.report.collect import Run, StepView, layer_names, variant_name
from pipeline.report.differences import Difference, difference_charts, differences
from pipeline.report.formatting import capital, cut_note
from pipeline.report.overlap import Overlap, overlap_of
from pipeline.report.overlays import shrink

SCORES, EXAMPLES = "scores.json", "examples.json"
TABLE_ONLY = frozenset({"f1", "precision", "recall", "yes_ratio", "on_padding"})
"""Metrics that are in the table of all scores but have no chart: they explain the charted ones."""
SHOWN = 8
"""Examples on the page."""
Score = dict[str, Any]
"""One row of scores.json (`pipeline.evaluation.scores.Score`), with the `variant` that it is about and its `name`."""


@dataclass(frozen=True)
class EvaluationSection:
    """The evaluations of all variants."""

    asked: list[int]  # numbers of questions
    overlap: Overlap | None
    scores: list[list[Score]]  # one group per benchmark and metric, one row per variant
    charts: list[tuple[str, Markup]]  # one per score outside TABLE_ONLY
    differences: list[Difference]
    difference_charts: list[tuple[str, Markup]]  # one per measure
    layers: list[str]
    layer_rows: list[tuple[str, str, list[float]]]  # variant, its name, attention inside the object per layer
    examples: list[dict[str, Any]]  # as in examples.json, with pictures and `answers`, one per variant
    map_layer: str  # that the examples' maps show
    cut_note: str  # says that texts of the examples are cut, if some are


def evaluation_section(run: Run) -> EvaluationSection | None:
    """None if the run has no evaluation."""
    views = run.of_kind("evaluation")
    if not views:
        return None
    contents = {view.name: _read(view, SCORES) for view in views}
    groups: dict[tuple[str, str], list[Score]] = {}
    for variant, content in contents.items():
        for item in content["scores"]:
            row = item | {"variant": variant, "name": variant_name(variant)}
            groups.setdefault((item["benchmark"], item["metric"]), []).append(row)
    attention = {v: c.get("details", {}).get("attention", {}) for v, c in contents.items()}
    per_layer = {v: a.get("per_layer", {}).get("in_mask") or [] for v, a in attention.items()}
    scores, gains, examples = list(groups.values()), differences(views), _examples(views)
    titles = {measure: group[0]["title"] for measure, group in groups.items()}
    texts = [e[name] for e in examples for name in ("question", "reference")]
    texts += [answer["answer"] for e in examples for answer in e["answers"]]
    shown_layers = sorted({e.get("layer", 0) for e in examples} or {0})
    names = layer_names(run, max(shown_layers) + 1)
    return EvaluationSection(
        asked=sorted({view.manifest.counts.rows_out for view in views}),
        overlap=overlap_of(run),
        scores=scores,
        charts=[_chart(group) for group in scores if group[0]["metric"] not in TABLE_ONLY],
        differences=gains,
        difference_charts=difference_charts(gains, titles),
        layers=layer_names(run, max(map(len, per_layer.values()))),
        layer_rows=[(v, variant_name(v), values) for v, values in per_layer.items() if values],
        examples=examples,
        map_layer=", ".join(names[i] for i in shown_layers),
        cut_note=cut_note(*texts),
    )


def _chart(group: list[Score]) -> tuple[str, Markup]:
    first = group[0]
    title, chance, name = capital(first["title"]), first["chance"], first["chance_name"] or "chance"
    same_chance = chance is not None and all(s["chance"] == chance for s in group)
    chart = dot_chart(
        title,
        [
            Interval(s["name"], f"c-{s['variant']}", s["value"], s["low"], s["high"], f"{s['value']:.3f}  n = {s['n']}")
            for s in group
        ],
        x_label="share of questions" if first["benchmark"] == "existence" else "share",
        chance=(chance, f"{name} {chance:.2f}") if same_chance else None,
        unit_range=all(s["low"] >= 0 and s["high"] <= 1 for s in group),
    )
    return title, chart


def _examples(views: list[StepView]) -> list[dict[str, Any]]:
    """The first examples that every variant has, in the first variant's order."""
    found = {view.name: {e["id"]: e for e in _read(view, EXAMPLES)["examples"]} for view in views}
    first, *others = found.values()
    examples = []
    for key in [key for key in first if all(key in other for other in others)][:SHOWN]:
        answers = [
            {
                **found[view.name][key],
                "variant": view.name,
                "name": variant_name(view.name),
                "map": _picture(view, found[view.name][key].get("map")),
            }
            for view in views
        ]
        examples.append({**first[key], "picture": _picture(views[0], first[key].get("image")), "answers": answers})
    return examples


def _picture(view: StepView, file: str | None) -> str | None:
    if not file:
        return None
    with view.artifact.open(file) as stream:
        return shrink(stream.read())


def _read(view: StepView, file: str) -> dict[str, Any]:
    with view.artifact.open(file) as stream:
        value = json.loads(stream.read())
    if not isinstance(value, dict):
        raise ArtifactError(f"{view.artifact.ref}: {file} must hold an object; run the step '{view.step}' again")
    return value
