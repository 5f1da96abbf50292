"""The training curves: what each checkpoint's metrics say, as charts per stage and variant."""

import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from model.stage_table import STAGES, trains
from pipeline.report.collect import Run, StepView, layer_names, read_rows, variant_name, variants_text
from pipeline.report.figures import Series, line_chart

METRICS = "metrics.parquet"
SHARED, LAYER_COLOURS = "c-shared", 6


@dataclass(frozen=True)
class Stage:
    """One trained row of the stage table with its curves. Missing values are NaN."""

    view: StepView
    row: str
    number: int
    label: str
    names: str  # of its variants, in full
    colour: str
    steps: tuple[float, ...]
    lm_loss: tuple[float, ...]
    guidance_loss: tuple[float, ...]
    mass: tuple[tuple[float, ...], ...]  # per CA layer: attention inside the mask
    padding: tuple[tuple[float, ...], ...]  # per CA layer: attention on cells without any image pixel
    guided: tuple[int, ...]  # guided rows of each record
    layers: tuple[str, ...]

    @property
    def guided_rows(self) -> int:
        """Guided rows that the whole stage saw."""
        return sum(self.guided)

    @property
    def trained(self) -> str:
        """What the stage table says that this row trains."""
        if self.row not in STAGES:
            return ""
        parts = [
            part if how == "trained" else f"{part} ({how})"
            for part, how in trains(STAGES[self.row]).items()
            if how != "frozen"
        ]
        return ", ".join(parts)

    @property
    def losses(self) -> str:
        """The losses that count."""
        return "language + guidance" if self.row in STAGES and STAGES[self.row].guidance_loss else "language"

    @property
    def final_loss(self) -> float | None:
        """Language loss of the last row of metrics."""
        return next((v for v in reversed(self.lm_loss) if math.isfinite(v)), None)

    @property
    def first_and_last_mass(self) -> list[tuple[float, float]]:
        """Per CA layer, attention inside the mask over the first and the last third of the records, by guided rows.

        Single records may hold a handful of guided rows. Empty with fewer than three records that hold any.
        """
        records = [i for i, rows in enumerate(self.guided) if rows and all(math.isfinite(m[i]) for m in self.mass)]
        third = len(records) // 3
        if not third or not self.mass:
            return []

        def mean(layer: tuple[float, ...], chosen: list[int]) -> float:
            return sum(layer[i] * self.guided[i] for i in chosen) / sum(self.guided[i] for i in chosen)

        return [(mean(layer, records[:third]), mean(layer, records[-third:])) for layer in self.mass]


def stages_of(run: Run) -> list[Stage]:
    """Every checkpoint of the run that holds metrics, in order."""
    return [_stage(run, view) for view in run.of_kind("checkpoint") if METRICS in view.artifact.files]


def loss_charts(stages: list[Stage]) -> list[tuple[str, Markup]]:
    """One chart of the language loss per stage number, one line per row that was trained there."""
    charts = []
    for number in sorted({s.number for s in stages}):
        series = [Series(s.label, s.colour, s.steps, s.lm_loss) for s in stages if s.number == number]
        charts += _chart(f"Stage {number}", series, "language loss (nats per token)")
    return charts


def guidance_charts(stages: list[Stage]) -> list[tuple[str, Markup]]:
    """One chart of the guidance loss per guided row."""
    charts = []
    for s in stages:
        series = [Series(s.label, s.colour, s.steps, s.guidance_loss)]
        charts += _chart(_heading(s), series, "guidance loss (nats)")
    return charts


def mass_charts(stages: list[Stage], padding: bool = False) -> list[tuple[str, Markup]]:
    """One chart per guided row: the share of attention inside the mask (or on padding), one line per CA layer."""
    charts = []
    what = "attention on padding (share)" if padding else "attention inside mask (share)"
    for s in stages:
        layers = s.padding if padding else s.mass
        series = [
            Series(name, f"c-layer{min(i, LAYER_COLOURS - 1)}", s.steps, values)
            for i, (name, values) in enumerate(zip(s.layers, layers, strict=True))
        ]
        charts += _chart(_heading(s), series, what, from_zero=True)
    return charts


def _chart(title: str, series: list[Series], y_label: str, from_zero: bool = False) -> list[tuple[str, Markup]]:
    """The chart with its heading; nothing where no line has two finite points."""
    kept = [s for s in series if sum(math.isfinite(y) for y in s.ys) > 1]
    if not kept:
        return []
    highest = max(y for s in kept for y in s.ys if math.isfinite(y))
    return [(title, line_chart(title, kept, y_label=y_label, y_range=(0.0, highest) if from_zero else None))]


def _heading(stage: Stage) -> str:
    return f"Stage {stage.number}, {stage.label}"


def _stage(run: Run, view: StepView) -> Stage:
    row = view.artifact.ref.name
    variants = run.rows.get(row, ())
    table = list(read_rows(view.artifact, METRICS))
    mass, padding = _layers(table, "attention_in_mask"), _layers(table, "attention_on_padding")
    count = max(len(mass), len(padding))
    return Stage(
        view=view,
        row=row,
        number=int(view.step.removeprefix("stage")),
        label=variants_text(variants, run.variants) or row,
        names=" and ".join(variant_name(v) for v in variants),
        colour=f"c-{variants[0]}" if 0 < len(variants) < len(run.variants) or len(run.variants) == 1 else SHARED,
        steps=tuple(float(r["step"]) for r in table),
        lm_loss=_column(table, "lm_loss"),
        guidance_loss=_column(table, "guidance_loss"),
        mass=mass,
        padding=padding,
        guided=tuple(int(r.get("guided_rows") or 0) for r in table),
        layers=tuple(layer_names(run, count)),
    )


def _column(table: list[dict[str, Any]], name: str) -> tuple[float, ...]:
    return tuple(math.nan if r.get(name) is None else float(r[name]) for r in table)


def _layers(table: list[dict[str, Any]], name: str) -> tuple[tuple[float, ...], ...]:
    """A column of lists, one value per CA layer, as one tuple per layer; rows without a list are NaN."""
    count = max((len(r.get(name) or ()) for r in table), default=0)
    rows = [[math.nan if v is None else float(v) for v in r.get(name) or ()] for r in table]
    return tuple(tuple(r[i] if len(r) == count else math.nan for r in rows) for i in range(count))
