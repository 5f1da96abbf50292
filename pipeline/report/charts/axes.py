"""The parts that charts share: scales, ticks, lines, texts and the SVG element around them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 440.0, 232.0
TOP, BOTTOM, LEFT = 12.0, 40.0, 56.0
"""Margins in pixels around the area where values are drawn."""
CHARACTER = 7.3
"""Pixels. Width of a bold label's character in DejaVu Sans, the widest of the page's fonts."""


@dataclass(frozen=True)
class Scale:
    """Maps the values `low` to `high` onto the pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / ((self.high - self.low) or 1.0) * (self.end - self.start)

    @property
    def middle(self) -> float:
        """The pixel halfway."""
        return (self.start + self.end) / 2


def ticks(low: float, high: float, count: int = 4, whole: bool = False) -> list[float]:
    """Round numbers that cover [low, high] in about `count` steps of 1, 2, 2.5 or 5 times a power of ten.

    `whole`: integers only.
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
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.6g}"


def line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    """A straight line of a CSS class."""
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def text(kind: str, x: float, y: float, words: str) -> str:
    """Escaped text of a CSS class; `y` is its baseline."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def dot(colour: str, x: float, y: float, radius: float) -> str:
    """A point of a colour class."""
    return f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'


def side_label(x: float, y: float, words: str) -> str:
    """The name of a vertical axis, read from bottom to top."""
    return f'<text class="axis mid" transform="translate({x:g} {y:.1f}) rotate(-90)">{escape(words)}</text>'


def svg(title: str, said: str, width: float, height: float, parts: Sequence[str]) -> Markup:
    """The element around a chart's parts. A screen reader reads `title` and `said`."""
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(f"{title}. {said}")}">{"".join(parts)}</svg>'
    )
