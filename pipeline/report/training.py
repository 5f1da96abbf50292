"""The section on training: each checkpoint's metrics as charts per stage and variant."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from model.stage_table import STAGE_STEPS, STAGES, trains
from pipeline.report.charts.line_chart import Series, line_chart
from pipeline.report.collect import Run, StepView, layer_names, read_rows
from pipeline.report.formatting import count, share
from pipeline.schemas import METRICS_FILE, SPEED_FILE, STAGE_FILE, WARNINGS_FILE

SHARED, LAYER_COLOURS = "c-shared", 6
Charts = list[tuple[str, Markup]]
"""Titles and charts."""


@dataclass(frozen=True)
class TimeLost:
    """Time that a stage trained, tokens per second, and the shares of the time that went elsewhere, 0..1."""

    seconds: float
    tokens_per_second: float
    data: float
    checkpoints: float | None


@dataclass(frozen=True)
class StageCurves:
    """One trained row of the stage table with its curves. Missing values are NaN."""

    view: StepView
    row: str
    stage: str  # 'Stage 3'
    label: str  # of its variants
    colour: str
    steps: tuple[float, ...]
    lm_loss: tuple[float, ...]
    guidance_loss: tuple[float, ...]
    mass: tuple[tuple[float, ...], ...]  # per CA layer: attention inside the mask
    padding: tuple[tuple[float, ...], ...]  # per CA layer: attention on cells without any image pixel
    guided: tuple[int, ...]  # guided rows of each record
    layers: tuple[str, ...]
    held_out: tuple[float, ...] = ()  # loss of the held-out rows; NaN where it was not measured
    lost: "TimeLost | None" = None
    warnings: tuple[str, ...] = ()
    order: dict[str, Any] = field(default_factory=dict)  # figures of the order of samples, from stage.json

    @property
    def final_held_out(self) -> float | None:
        """The last held-out loss, if any was measured."""
        return next((v for v in reversed(self.held_out) if math.isfinite(v)), None)

    @property
    def order_words(self) -> str:
        """The share of padding and the spread of guided rows over the batches; '' if they were not measured."""
        words = []
        if padding := self.order.get("padding"):
            words.append(f"padding {share(padding['sorted'])} of the tokens ({share(padding['unsorted'])} unsorted)")
        if guided := self.order.get("guided"):
            words.append(
                f"guided rows per batch {guided['mean']:.1f} \u00b1 {guided['deviation']:.1f} (by chance alone "
                f"\u00b1 {guided['binomial_deviation']:.1f})"
            )
        return "; ".join(words)

    @property
    def guided_rows(self) -> int:
        """Guided rows that the whole stage saw."""
        return sum(self.guided)

    @property
    def trained(self) -> str:
        """The parts that the stage table trains."""
        parts = trains(STAGES[self.row]).items() if self.row in STAGES else ()
        return ", ".join(part if how == "trained" else f"{part} ({how})" for part, how in parts if how != "frozen")

    @property
    def losses(self) -> str:
        """The losses that count."""
        return "language + guidance" if self.row in STAGES and STAGES[self.row].guidance_loss else "language"

    @property
    def final_loss(self) -> float | None:
        """Language loss of the last record that holds one."""
        return next((v for v in reversed(self.lm_loss) if math.isfinite(v)), None)

    @property
    def first_and_last_mass(self) -> list[tuple[float, float]]:
        """Per CA layer, attention inside the mask over the first and the last third of the records, by guided rows.

        Single records may hold a handful of guided rows. Empty with fewer than three records that hold any.
        """
        records = [i for i, rows in enumerate(self.guided) if rows and all(math.isfinite(m[i]) for m in self.mass)]
        third = len(records) // 3

        def mean(layer: tuple[float, ...], chosen: list[int]) -> float:
            return sum(layer[i] * self.guided[i] for i in chosen) / sum(self.guided[i] for i in chosen)

        return [(mean(layer, records[:third]), mean(layer, records[-third:])) for layer in self.mass if third]

    @property
    def finding(self) -> str:
        """The change of the attention inside the masks; '' if too little was guided to tell."""
        if not self.first_and_last_mass:
            return ""
        moves = ", ".join(
            f"{name} from {100 * start:.0f} to {100 * end:.0f}\u202f%"
            for name, (start, end) in zip(self.layers, self.first_and_last_mass, strict=True)
        )
        return (
            f"Attention inside the teachers' masks while {self.row} trained: {moves} "
            f"(first and last third of {count(self.guided_rows)} guided rows; {self.label})."
        )


def stage_curves(run: Run) -> list[StageCurves]:
    """Every checkpoint of the run that holds metrics, in order."""
    return [_curves(run, view) for view in run.of_kind("checkpoint") if METRICS_FILE in view.artifact.files]


def chart_groups(stages: list[StageCurves]) -> list[tuple[str, str, Charts]]:
    """The training charts in reading order, each group with its title and a text; one without any chart is left out."""
    rows = ", ".join(f"{round(s.guided_rows / len(s.guided))} in {s.row}" for s in stages if s.guided_rows)
    groups = [
        (
            "Language loss",
            "Mean over the target tokens of the steps since the last point. Stages 1 and 2 are trained once and "
            "shared. Dashed: the loss on rows that were kept out of training. Each chart has its own scale.",
            loss_charts(stages),
        ),
        (
            "Guidance loss",
            "Eq. 3 of the paper, over the guided rows of the steps since the last point. Its floor depends on the "
            "size of the masks, so its fall matters more than its height.",
            guidance_charts(stages),
        ),
        (
            "Attention inside the mask, per cross-attention layer",
            "The share of the query tokens' attention that lands on cells of the teachers' mask, on guided training "
            f"rows. Guided rows per point, on average: {rows}; with few rows a line jumps.",
            mass_charts(stages),
        ),
        (
            "Attention on padding, per cross-attention layer",
            "The share that lands on cells without any image pixel. The default letterbox masks these out.",
            mass_charts(stages, padding=True),
        ),
    ]
    return [group for group in groups if group[2]]


def loss_charts(stages: list[StageCurves]) -> Charts:
    """One chart of the language loss per stage, one line per row that was trained there."""
    lines = [(s.stage, Series(s.label, s.colour, s.steps, s.lm_loss)) for s in stages]
    for s in stages:  # a line through the steps at which it was measured
        points = [(x, y) for x, y in zip(s.steps, s.held_out, strict=False) if math.isfinite(y)]
        if len(points) > 1:
            xs, ys = zip(*points, strict=True)
            lines.append((s.stage, Series(f"{s.label}, held out", f"{s.colour} dashed", xs, ys)))
    return _charts(lines, "language loss (nats per token)")


def guidance_charts(stages: list[StageCurves]) -> Charts:
    """One chart of the guidance loss per guided row of the stage table."""
    lines = [(f"{s.stage}, {s.label}", Series(s.label, s.colour, s.steps, s.guidance_loss)) for s in stages]
    return _charts(lines, "guidance loss (nats)")


def mass_charts(stages: list[StageCurves], padding: bool = False) -> Charts:
    """One chart per guided row: the share of attention inside the mask (or on padding), one line per CA layer.

    Padding has no chart if no attention ever landed on it.
    """
    if padding and not any(value > 0 for s in stages for layer in s.padding for value in layer):
        return []
    lines = [
        (f"{s.stage}, {s.label}", Series(name, f"c-layer{min(i, LAYER_COLOURS - 1)}", s.steps, values))
        for s in stages
        for i, (name, values) in enumerate(zip(s.layers, s.padding if padding else s.mass, strict=True))
    ]
    return _charts(lines, f"attention {'on padding' if padding else 'inside mask'} (share)", from_zero=True)


def _charts(lines: list[tuple[str, Series]], y_label: str, from_zero: bool = False) -> Charts:
    """One chart per title, with the lines that have this title and two finite points."""
    found: dict[str, list[Series]] = {}
    for title, series in lines:
        if sum(map(math.isfinite, series.ys)) > 1:
            found.setdefault(title, []).append(series)
    return [(title, line_chart(title, kept, y_label=y_label, from_zero=from_zero)) for title, kept in found.items()]


def _curves(run: Run, view: StepView) -> StageCurves:
    variants = run.variants_of(view.name)
    table = list(read_rows(view.artifact, METRICS_FILE))
    mass, padding = _layers(table, "attention_in_mask"), _layers(table, "attention_on_padding")
    return StageCurves(
        view=view,
        row=view.name,
        stage=f"Stage {STAGE_STEPS.index(view.step) + 1}" if view.step in STAGE_STEPS else view.step,
        label=run.label_of(view.name) or view.name,
        colour=f"c-{variants[0]}" if len(variants) == 1 else SHARED,
        steps=tuple(float(r["step"]) for r in table),
        lm_loss=_column(table, "lm_loss"),
        guidance_loss=_column(table, "guidance_loss"),
        mass=mass,
        padding=padding,
        guided=tuple(int(r.get("guided_rows") or 0) for r in table),
        layers=tuple(layer_names(run, max(len(mass), len(padding)))),
        held_out=_column(table, "held_out_loss"),
        lost=_time_lost(view),
        warnings=tuple(warning["text"] for warning in _json(view, WARNINGS_FILE) or ()),
        order=(_json(view, STAGE_FILE) or {}).get("order") or {},
    )


def _json(view: StepView, file: str) -> Any:
    """The content of a JSON file of an artifact; None if it has no such file."""
    if file not in view.artifact.files:
        return None
    with view.artifact.open(file) as stream:
        return json.load(stream)


def _time_lost(view: StepView) -> TimeLost | None:
    """The sums of the stage's table of speed; None without one."""
    rows = list(read_rows(view.artifact, SPEED_FILE)) if SPEED_FILE in view.artifact.files else []
    whole = rows[-1]["seconds"] if rows else 0.0
    if not whole:
        return None
    starts = [0.0, *(row["seconds"] for row in rows[:-1])]
    spans = [max(0.0, row["seconds"] - start) for row, start in zip(rows, starts, strict=True)]

    def mean(name: str) -> float:
        return float(sum(row[name] * span for row, span in zip(rows, spans, strict=True)) / whole)

    known = "checkpoint_seconds" in rows[0]
    checkpoints = sum(row["checkpoint_seconds"] or 0.0 for row in rows) / whole if known else None
    return TimeLost(whole, mean("tokens_per_second"), mean("data_wait"), checkpoints)


def _column(table: list[dict[str, Any]], name: str) -> tuple[float, ...]:
    return tuple(math.nan if r.get(name) is None else float(r[name]) for r in table)


def _layers(table: list[dict[str, Any]], name: str) -> tuple[tuple[float, ...], ...]:
    """A column of lists, one value per CA layer, as one tuple per layer; rows without a list are NaN."""
    number = max((len(r.get(name) or ()) for r in table), default=0)
    rows = [[math.nan if v is None else float(v) for v in r.get(name) or ()] for r in table]
    return tuple(tuple(r[i] if len(r) == number else math.nan for r in rows) for i in range(number))
