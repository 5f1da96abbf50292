"""Charts as inline SVG, drawn by hand so that they follow the page's light or dark colours and cost no bytes twice.

Coordinates are rounded to a tenth, so equal inputs give equal text. Colours are CSS classes (`c-<name>`), defined once
in the page's style sheet from a palette that colour-blind readers can tell apart; every line also carries its name.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 440.0, 232.0
TOP, BOTTOM, LEFT = 12.0, 40.0, 56.0
CHARACTER = 7.3  # width of a bold label's character: DejaVu Sans, the widest of the page's fonts
MAX_POINTS = 240


@dataclass(frozen=True)
class Series:
    """One line: its name, its colour class and its points."""

    label: str
    colour: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


@dataclass(frozen=True)
class Interval:
    """One row of a dot chart: a value with the interval that it could be from, and how it is written out."""

    label: str
    colour: str
    value: float
    low: float
    high: float
    text: str


def ticks(low: float, high: float, count: int = 4, whole: bool = False) -> list[float]:
    """Round numbers that cover [low, high] in about `count` steps of 1, 2, 2.5 or 5 times a power of ten.

    `whole`: integers only, for what is counted.
    """
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = max((high - low) / count, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    sizes = (1, 2, 5, 10) if whole and power < 10 else (1, 2, 2.5, 5, 10)
    step = next(s * power for s in sizes if s * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's text: no trailing zeros, thousands as k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"


def thin(xs: Sequence[float], ys: Sequence[float], limit: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """At most `limit` points: means of neighbouring points, so that no value is left out."""
    if len(xs) <= limit:
        return list(xs), list(ys)
    size = math.ceil(len(xs) / limit)
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
    if order and placed[order[0]] < low:
        shift = low - placed[order[0]]
        placed = [p + shift for p in placed]
    return placed


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "optimiser step",
    y_label: str,
    y_range: tuple[float, float] | None = None,
    reference: tuple[float, str] | None = None,
) -> Markup:
    """Lines over whole numbers, with their names at their ends.

    `reference` draws one dashed horizontal line with a name. Points that are not finite interrupt a line. Raises
    ValueError without any finite point.
    """
    points = {i: _finite(s) for i, s in enumerate(series)}
    flat = [p for pieces in points.values() for piece in pieces for p in piece]
    if not flat:
        raise ValueError(f"chart '{title}' has no finite point")
    xs, ys = [p[0] for p in flat], [p[1] for p in flat]
    low, high = y_range or (min(ys), max(ys))
    if reference:
        low, high = min(low, reference[0]), max(high, reference[0])
    y_ticks, x_ticks = ticks(low, high), ticks(min(0.0, *xs), max(xs), 5, whole=True)
    last_x = max(x_ticks[-1] if max(xs) > (x_ticks[-2] + x_ticks[-1]) / 2 else max(xs), max(xs))
    right = 10.0 + CHARACTER * max(len(s.label) for s in series)

    def x_of(value: float) -> float:
        return LEFT + (value - x_ticks[0]) / (last_x - x_ticks[0] or 1) * (WIDTH - LEFT - right)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(y_ticks, [t for t in x_ticks if t <= last_x], x_of, y_of, WIDTH - right, x_label, y_label)]
    if reference:
        y = y_of(reference[0])
        parts.append(
            f'<line class="ref" x1="{LEFT:.1f}" x2="{WIDTH - right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="ref-t" x="{LEFT + 4:.1f}" y="{y - 4:.1f}">{escape(reference[1])}</text>'
        )
    ends = []
    for i, s in enumerate(series):
        for piece in points[i]:
            path = "L".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in piece)
            parts.append(f'<path class="line {s.colour}" d="M{path}"/>')
        if points[i]:
            x, y = points[i][-1][-1]
            parts.append(f'<circle class="dot {s.colour}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2.6"/>')
            ends.append((s, y_of(y)))
    places = spread([y for _, y in ends], 13.0, TOP + 4, HEIGHT - BOTTOM)
    parts += [
        f'<text class="name {s.colour}" x="{WIDTH - right + 6:.1f}" y="{y + 3.6:.1f}">{escape(s.label)}</text>'
        for (s, _), y in zip(ends, places, strict=True)
    ]
    said = "; ".join(f"{s.label} ends at {points[i][-1][-1][1]:.3g}" for i, s in enumerate(series) if points[i])
    return _svg(title, f"{y_label} over {x_label}: {said}", WIDTH, HEIGHT, parts)


def dot_chart(
    title: str,
    rows: Sequence[Interval],
    *,
    x_label: str,
    chance: tuple[float, str] | None = None,
    unit_range: bool = True,
) -> Markup:
    """One row per value: a dot with its interval as a bar, the value written out, chance as a dashed line."""
    if not rows:
        raise ValueError(f"chart '{title}' has no row")
    width, row, top = 520.0, 27.0, 20.0
    left = 12.0 + CHARACTER * 1.08 * max(len(r.label) for r in rows)
    right = 14.0 + CHARACTER * max(len(r.text) for r in rows)
    bottom = top + row * len(rows)
    lows, highs = [r.low for r in rows], [r.high for r in rows]
    bounds = (0.0, 1.0) if unit_range else (min(0.0, *lows), max(highs))
    x_ticks = ticks(*bounds)

    def x_of(value: float) -> float:
        return left + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (width - left - right)

    parts = [
        f'<line class="grid" x1="{x_of(t):.1f}" x2="{x_of(t):.1f}" y1="{top - 4:.1f}" y2="{bottom:.1f}"/>'
        f'<text class="tick mid" x="{x_of(t):.1f}" y="{bottom + 14:.1f}">{number(t)}</text>'
        for t in x_ticks
    ]
    middle = x_of((x_ticks[0] + x_ticks[-1]) / 2)
    parts.append(f'<text class="axis mid" x="{middle:.1f}" y="{bottom + 30:.1f}">{escape(x_label)}</text>')
    if chance:
        x = x_of(chance[0])
        parts.append(
            f'<line class="ref" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 5:.1f}" y2="{bottom:.1f}"/>'
            f'<text class="ref-t mid" x="{x:.1f}" y="{top - 8:.1f}">{escape(chance[1])}</text>'
        )
    for index, r in enumerate(rows):
        y = top + row * (index + 0.5)
        parts.append(
            f'<text class="name end {r.colour}" x="{left - 10:.1f}" y="{y + 4:.1f}">{escape(r.label)}</text>'
            f'<line class="bar {r.colour}" x1="{x_of(r.low):.1f}" x2="{x_of(r.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<circle class="dot {r.colour}" cx="{x_of(r.value):.1f}" cy="{y:.1f}" r="4.6"/>'
            f'<text class="value" x="{width - right + 10:.1f}" y="{y + 4:.1f}">{escape(r.text)}</text>'
        )
    return _svg(title, "; ".join(f"{r.label}: {r.text}" for r in rows), width, bottom + 38, parts)


def histogram(x_label: str, counts: Sequence[int]) -> Markup:
    """Numbers in equal bins over [0, 1], each written above its column."""
    if not counts or max(counts) <= 0:
        raise ValueError(f"histogram of {x_label} has nothing to show")
    floor, room = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP - 12
    step = (WIDTH - LEFT - 10) / len(counts)
    parts = [f'<line class="grid" x1="{LEFT:.1f}" x2="{WIDTH - 10:.1f}" y1="{floor:.1f}" y2="{floor:.1f}"/>']
    for i, value in enumerate(counts):
        tall, x = value / max(counts) * room, LEFT + i * step
        parts.append(
            f'<rect class="column" x="{x + 1:.1f}" y="{floor - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}"/>'
            f'<text class="over mid" x="{x + step / 2:.1f}" y="{floor - tall - 4:.1f}">{value or ""}</text>'
        )
    for i in range(0, len(counts) + 1, 2):
        parts.append(
            f'<text class="tick mid" x="{LEFT + i * step:.1f}" y="{floor + 15:.1f}">{i / len(counts):g}</text>'
        )
    parts.append(
        f'<text class="axis mid" x="{(LEFT + WIDTH - 10) / 2:.1f}" y="{HEIGHT - 7:.1f}">{escape(x_label)}</text>'
    )
    parts.append(f'<text class="axis mid" transform="translate(34 {(TOP + floor) / 2:.1f}) rotate(-90)">masks</text>')
    said = ", ".join(f"{value} from {i / len(counts):g}" for i, value in enumerate(counts) if value)
    return _svg(f"Histogram of {x_label}", said, WIDTH, HEIGHT, parts)


def stacked_bar(title: str, parts: Sequence[tuple[str, int, str]]) -> Markup:
    """One horizontal bar of shares: (label, count, colour class); parts of zero are left out."""
    total = sum(count for _, count, _ in parts)
    if total <= 0:
        raise ValueError(f"bar '{title}' has nothing to show")
    width, x, drawn = 1000.0, 0.0, []
    for label, count, colour in parts:
        share = count / total * width
        if count:
            drawn.append(
                f'<rect class="fill {colour}" x="{x:.1f}" y="0" width="{max(share - 2, 1):.1f}" height="18" rx="3">'
                f"<title>{escape(label)}: {count}</title></rect>"
            )
        x += share
    said = "; ".join(f"{label}: {count}" for label, count, _ in parts)
    return _svg(title, said, width, 18.0, drawn, "stack")


def _grid(
    y_ticks: list[float],
    x_ticks: list[float],
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
    right: float,
    x_label: str,
    y_label: str,
) -> str:
    parts = [
        f'<line class="grid" x1="{LEFT:.1f}" x2="{right:.1f}" y1="{y_of(t):.1f}" y2="{y_of(t):.1f}"/>'
        f'<text class="tick end" x="{LEFT - 6:.1f}" y="{y_of(t) + 3.5:.1f}">{number(t)}</text>'
        for t in y_ticks
    ]
    parts += [
        f'<text class="tick mid" x="{x_of(t):.1f}" y="{HEIGHT - BOTTOM + 15:.1f}">{number(t)}</text>' for t in x_ticks
    ]
    middle_x, middle_y = (LEFT + right) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text class="axis mid" x="{middle_x:.1f}" y="{HEIGHT - 7:.1f}">{escape(x_label)}</text>')
    parts.append(
        f'<text class="axis mid" transform="translate(11 {middle_y:.1f}) rotate(-90)">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _svg(title: str, said: str, width: float, height: float, parts: Sequence[str], kind: str = "chart") -> Markup:
    """The element around a chart's parts; its title and description are what a screen reader says."""
    label = escape(f"{title}. {said}")
    stretch = ' preserveAspectRatio="none"' if kind == "stack" else ""
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}"{stretch}>'
        f"{''.join(parts)}</svg>"
    )


def _finite(series: Series) -> list[list[tuple[float, float]]]:
    """The line's unbroken pieces, thinned."""
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
