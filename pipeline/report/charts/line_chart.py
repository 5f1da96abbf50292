"""A line chart over whole numbers, such as optimiser steps. Each line carries its name at its end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from pipeline.report.charts import axes
from pipeline.report.charts.axes import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Scale, line, text

MAX_POINTS = 240
"""Points of a line that are drawn; more are averaged."""


@dataclass(frozen=True)
class Series:
    """One line: its name, its colour class and its points. A point that is not finite interrupts the line."""

    label: str
    colour: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str = "optimiser step", y_label: str, from_zero: bool = False
) -> Markup:
    """Draw the lines. `from_zero`: the vertical axis begins at 0. Raises ValueError without any finite point."""
    pieces = [_pieces(s) for s in series]
    points = [point for each in pieces for piece in each for point in piece]
    if not points:
        raise ValueError(f"chart '{title}' has no finite point")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_ticks, y_ticks = (
        axes.ticks(min(0.0, *xs), max(xs), 5, whole=True),
        axes.ticks(0.0 if from_zero else min(ys), max(ys)),
    )
    # The last tick is dropped where the lines end well before it: they would leave the right of the chart empty.
    last = x_ticks[-1] if max(xs) > (x_ticks[-2] + x_ticks[-1]) / 2 else max(xs)
    x_of = Scale(x_ticks[0], last, LEFT, WIDTH - 10.0 - axes.CHARACTER * max(len(s.label) for s in series))
    y_of = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)

    parts = [line("grid", LEFT, x_of.end, y_of(t), y_of(t)) for t in y_ticks]
    parts += [text("tick end", LEFT - 6, y_of(t) + 3.5, axes.number(t)) for t in y_ticks]
    parts += [text("tick mid", x_of(t), HEIGHT - BOTTOM + 15, axes.number(t)) for t in x_ticks if t <= last]
    parts += [text("axis mid", x_of.middle, HEIGHT - 7, x_label), axes.side_label(11, y_of.middle, y_label)]
    for s, each in zip(series, pieces, strict=True):
        for piece in each:
            path = "L".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in piece)
            parts.append(f'<path class="line {s.colour}" d="M{path}"/>')
    ends = [(s, *each[-1][-1]) for s, each in zip(series, pieces, strict=True) if each]
    parts += [axes.dot(s.colour, x_of(x), y_of(y), 2.6) for s, x, y in ends]
    places = spread([y_of(y) for _, _, y in ends], 13.0, TOP + 4, HEIGHT - BOTTOM)
    parts += [
        text(f"name {s.colour}", x_of.end + 6, y + 3.6, s.label) for (s, _, _), y in zip(ends, places, strict=True)
    ]
    said = "; ".join(f"{s.label} ends at {y:.3g}" for s, _, y in ends)
    return axes.svg(title, f"{y_label} over {x_label}: {said}", WIDTH, HEIGHT, parts)


def thin(xs: Sequence[float], ys: Sequence[float], limit: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """At most `limit` points: means of neighbouring points, so that every value counts."""
    size = math.ceil(len(xs) / limit) or 1
    starts = range(0, len(xs), size)
    return [_mean(xs[i : i + size]) for i in starts], [_mean(ys[i : i + size]) for i in starts]


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart so that neighbours are at least `gap` from each other and stay in [low, high] if they fit."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = list(positions)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    limit = high
    for index in reversed(order):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - gap
    shift = max(0.0, low - min(placed, default=low))
    return [place + shift for place in placed]


def _pieces(series: Series) -> list[list[tuple[float, float]]]:
    """The unbroken pieces of a line, thinned."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(*thin(series.xs, series.ys), strict=True):
        if math.isfinite(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _mean(values: Sequence[float]) -> float:
    kept = [v for v in values if math.isfinite(v)]
    return sum(kept) / len(kept) if kept else math.nan
