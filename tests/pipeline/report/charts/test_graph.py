"""The layout of the graph: columns by depth, nothing on top of anything else."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.charts.graph import EDGE_H, GAP_Y, NODE_H, ROOM, SQUEEZE, WIDTHS, Box, columns_of, draw, layout


def boxes(edges: dict[str, list[str]]) -> list[Box]:
    return [Box(k, (k,), "c-data", f"#{k}", tuple(v)) for k, v in edges.items()]


@st.composite
def graphs(draw_from: st.DrawFn) -> dict[str, list[str]]:
    size = draw_from(st.integers(1, 12))
    keys = [f"s{i}" for i in range(size)]
    picks = [draw_from(st.lists(st.sampled_from(keys[:i]), unique=True)) if i else [] for i in range(size)]
    return dict(zip(keys, picks, strict=True))


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_inputs_stand_left_of_what_they_make(edges: dict[str, list[str]]) -> None:
    column = columns_of(boxes(edges))
    for key, inputs in edges.items():
        assert column[key] == max((column[i] + 1 for i in inputs), default=0)


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_boxes_and_edges_of_a_column_keep_their_distance(edges: dict[str, list[str]]) -> None:
    middle = layout(boxes(edges))
    column = columns_of(boxes(edges))
    for level in set(column.values()):
        slots = sorted((y, NODE_H if column[key] == at else EDGE_H) for (key, at), y in middle.items() if at == level)
        for (a, high), (b, low) in itertools.pairwise(slots):
            assert b - a >= (high + low) / 2 + GAP_Y - 1e-6
        assert slots[0][0] - slots[0][1] / 2 >= -1e-6


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_an_edge_has_a_slot_in_every_column_that_it_crosses(edges: dict[str, list[str]]) -> None:
    middle = layout(boxes(edges))
    column = columns_of(boxes(edges))
    for key, inputs in edges.items():
        for source in inputs:
            assert all((source, level) in middle for level in range(column[source], column[key]))


def test_a_graph_without_boxes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        draw([])


def test_every_box_is_drawn_once_with_its_link_and_escaped_text() -> None:
    svg = draw([Box("a", ("<b>", "x"), "c-data", "#a", ()), Box("z", ("z",), "c-page", "#z", ("a", "elsewhere"))])
    assert re.findall(r'<a href="([^"]+)"', svg) == ["#a", "#z"]
    assert "&lt;b&gt;" in svg
    assert "<b>" not in svg
    assert draw(boxes({"a": [], "b": ["a"]})) == draw(boxes({"a": [], "b": ["a"]}))


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "Zs"]), min_size=1, max_size=60).map(str.strip))
def test_no_line_leaves_its_box(line: str) -> None:
    """As wide as the widest font draws it: squeezed a little if need be, cut if that is not enough."""
    svg = str(draw([Box("k", (line,) * 4, "c-data", "#k", ())]))
    texts = re.findall(r"<text class=\"l(\d)\"[^>]*?( textLength=\"([\d.]+)\"[^>]*)?>([^<]*)</text>", svg)
    assert len(texts) == 4
    for number, _, length, shown in texts:
        wide = len(shown) * WIDTHS[int(number)]
        assert wide <= ROOM or float(length) == ROOM
        assert wide <= SQUEEZE * ROOM
        assert shown == line or (shown.endswith("\u2026") and line.startswith(shown[:-1]))
