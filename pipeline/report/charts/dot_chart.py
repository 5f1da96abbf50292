"""A dot chart (one row per value, with its interval as a bar), and a histogram over [0, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.report.charts import axes
from pipeline.report.charts.axes import CHARACTER, Scale, dot, line, number, svg, text, ticks

WIDTH, ROW, TOP = 520.0, 27.0, 20.0
"""Pixels: a dot chart's width, the height of a row and the margin above the rows."""


@dataclass(frozen=True)
class Interval:
    """One row: a value, the ends of its interval, and its text."""

    label: str
    colour: str
    value: float
    low: float
    high: float
    text: str


def dot_chart(
    title: str,
    rows: Sequence[Interval],
    *,
    x_label: str,
    chance: tuple[float, str] | None = None,
    unit_range: bool = True,
) -> Markup:
    """Draw the rows.

    `chance`: value and name of a dashed line. `unit_range`: the axis goes from 0 to 1. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError(f"chart '{title}' has no row")
    bottom = TOP + ROW * len(rows)
    bounds = (0.0, 1.0) if unit_range else (min(0.0, *(r.low for r in rows)), max(r.high for r in rows))
    x_ticks = ticks(*bounds)
    left = 12.0 + CHARACTER * 1.08 * max(len(r.label) for r in rows)
    right = WIDTH - 14.0 - CHARACTER * max(len(r.text) for r in rows)
    x_of = Scale(x_ticks[0], x_ticks[-1], left, right)

    parts = [line("grid", x_of(t), x_of(t), TOP - 4, bottom) for t in x_ticks]
    parts += [text("tick mid", x_of(t), bottom + 14, number(t)) for t in x_ticks]
    parts.append(text("axis mid", x_of.middle, bottom + 30, x_label))
    if chance:
        x, words = x_of(chance[0]), chance[1]
        parts += [line("ref", x, x, TOP - 5, bottom), text("ref-t mid", x, TOP - 8, words)]
    for index, r in enumerate(rows):
        y = TOP + ROW * (index + 0.5)
        parts += [
            text(f"name end {r.colour}", left - 10, y + 4, r.label),
            line(f"bar {r.colour}", x_of(r.low), x_of(r.high), y, y),
            dot(r.colour, x_of(r.value), y, 4.6),
            text("value", right + 10, y + 4, r.text),
        ]
    return svg(title, "; ".join(f"{r.label}: {r.text}" for r in rows), WIDTH, bottom + 38, parts)


def histogram(x_label: str, counts: Sequence[int], y_label: str) -> Markup:
    """Numbers in equal bins over [0, 1], each written above its column. Raises ValueError if all are zero."""
    if not counts or max(counts) <= 0:
        raise ValueError(f"histogram of {x_label} has nothing to show")
    x_of = Scale(0, len(counts), axes.LEFT, axes.WIDTH - 10)
    y_of = Scale(0, max(counts), axes.HEIGHT - axes.BOTTOM, axes.TOP + 12)
    parts = [line("grid", x_of.start, x_of.end, y_of.start, y_of.start)]
    for i, value in enumerate(counts):
        top, width = y_of(value), x_of(1) - x_of(0) - 2
        parts.append(
            f'<rect class="column" x="{x_of(i) + 1:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{y_of.start - top:.1f}"/>'
        )
        parts.append(text("over mid", x_of(i + 0.5), top - 4, _over(value)))
    parts += [text("tick mid", x_of(i), y_of.start + 15, f"{i / len(counts):g}") for i in range(0, len(counts) + 1, 2)]
    parts += [text("axis mid", x_of.middle, axes.HEIGHT - 7, x_label), axes.side_label(34, y_of.middle, y_label)]
    said = ", ".join(f"{value} from {i / len(counts):g}" for i, value in enumerate(counts) if value)
    return svg(f"Histogram of {x_label}", said, axes.WIDTH, axes.HEIGHT, parts)


def _over(value: int) -> str:
    """A column's number: '' for none, in thousands from ten thousand on, so that neighbours do not overlap."""
    return f"{value / 1000:.0f}k" if value >= 10_000 else str(value or "")
