"""Charts: ticks cover their data, labels do not touch, values are drawn at their places."""

import itertools
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.charts.axes import ticks
from pipeline.report.charts.dot_chart import Interval, dot_chart, histogram
from pipeline.report.charts.line_chart import Series, line_chart, spread, thin

finite = st.floats(-1e6, 1e6, allow_nan=False)


@settings(deadline=None)
@given(finite, finite)
def test_ticks_cover_the_range_in_few_even_steps(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    if high - low < 1e-6 * max(1.0, abs(low), abs(high)):
        high = low + 1
    found = ticks(low, high)
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= high - 1e-6 * step
    assert 2 <= len(found) <= 8


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_what_is_counted_has_whole_ticks(high: int, count: int) -> None:
    found = ticks(0, high, count, whole=True)
    assert all(tick == int(tick) for tick in found)
    assert found[-1] >= high
    assert 2 <= len(found) <= count + 2


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_labels_are_moved_apart_and_keep_their_order(places: list[float]) -> None:
    moved = spread(places, 13, 0, 100)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for a, b in itertools.pairwise(order):
        assert moved[b] - moved[a] >= 13 - 1e-6
    assert min(moved) >= -1e-6
    assert max(moved) <= 100 + 1e-6


def test_thinning_keeps_the_mean_and_the_limit() -> None:
    xs, ys = [float(i) for i in range(1000)], [float(i % 7) for i in range(1000)]
    few_xs, few_ys = thin(xs, ys, 100)
    assert len(few_xs) == len(few_ys) == 100
    assert sum(few_ys) / 100 == pytest.approx(sum(ys) / 1000)
    assert thin(xs[:5], ys[:5]) == (xs[:5], ys[:5])


def test_a_line_is_drawn_where_its_values_are_and_broken_where_they_are_missing() -> None:
    series = Series("one & two", "c-shared", (0, 1, 2, 3, 4), (1.0, 2.0, math.nan, 4.0, 5.0))
    svg = line_chart("Title", [series], y_label="loss")
    paths = re.findall(r'class="line c-shared" d="M([^"]+)"', svg)
    assert [path.count(",") for path in paths] == [2, 2]
    heights = [float(p.split(",")[1]) for path in paths for p in path.split("L")]
    assert heights == sorted(heights, reverse=True)
    assert "one &amp; two" in svg
    assert "ends at 5" in svg
    with pytest.raises(ValueError, match="no finite point"):
        line_chart("Title", [Series("x", "c", (0,), (math.nan,))], y_label="loss")


def test_dots_stand_between_the_ends_of_their_intervals() -> None:
    rows = [Interval("a", "c-a", 0.25, 0.1, 0.5, "0.25"), Interval("b", "c-b", 0.75, 0.7, 0.8, "0.75")]
    svg = dot_chart("Title", rows, x_label="share", chance=(0.5, "chance"))
    dots = [float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', svg)]
    bars = re.findall(r'class="bar c-\w" x1="([\d.]+)" x2="([\d.]+)"', svg)
    assert dots[0] < dots[1]
    assert all(float(a) < dot < float(b) for dot, (a, b) in zip(dots, bars, strict=True))
    line = float(re.findall(r'class="ref" x1="([\d.]+)"', svg)[0])
    assert dots[0] < line < dots[1]


def test_a_histogram_is_as_high_as_its_counts() -> None:
    svg = histogram("IoU", [0, 2, 4], "masks")
    heights = [float(h) for h in re.findall(r'class="column"[^>]* height="([\d.]+)"', svg)]
    assert heights[0] == 0
    assert heights[2] == pytest.approx(2 * heights[1], abs=0.11)
    with pytest.raises(ValueError, match="nothing to show"):
        histogram("IoU", [0, 0], "masks")
