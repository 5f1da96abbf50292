"""The graph of a run's steps: one column per depth, from left to right.

An edge that crosses columns gets a slot of its own in each of them, so that no edge runs behind a box. All edges that
leave one box share these slots and run as one line until they part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup, escape

NODE_W, NODE_H, EDGE_H, GAP_X, GAP_Y = 126.0, 68.0, 8.0, 34.0, 16.0
ROOM = NODE_W - 18
"""Pixels that a box has for a line of text."""
WIDTHS = (7.5, 5.9, 6.02, 5.5)
"""Pixels. Width of a character in each of a box's four lines, in the widest of the page's fonts."""
SQUEEZE = 1.2
"""A line of text up to this much too long is drawn with its letters closer together; a longer one is cut."""
Slot = tuple[str, int]
"""Key of a box and a column: the box itself in its own column, its edges in the later ones."""


@dataclass(frozen=True)
class Box:
    """One step: its lines of text, colour class, link and the keys of its inputs."""

    key: str
    lines: tuple[str, ...]
    colour: str
    link: str
    inputs: tuple[str, ...]
    title: str = ""


def columns_of(boxes: Sequence[Box]) -> dict[str, int]:
    """Column of each box: the longest way from a box without inputs. A box must come after its inputs."""
    found: dict[str, int] = {}
    for box in boxes:
        found[box.key] = max((found[i] + 1 for i in box.inputs if i in found), default=0)
    return found


def layout(boxes: Sequence[Box]) -> dict[Slot, float]:
    """Middle of every slot, in pixels from the top.

    One pass from left to right: a slot wishes to stand at the mean height of its inputs. The slots of a column are put
    in the order of their wishes (the order of the boxes where these are equal), pushed apart downwards until they fit,
    and moved up together by the mean push.
    """
    column = columns_of(boxes)
    last = dict(column)
    for box in boxes:
        for source in set(box.inputs) & column.keys():
            last[source] = max(last[source], column[box.key] - 1)
    middle: dict[Slot, float] = {}
    for level in range(max(column.values()) + 1):
        wishes: dict[str, float] = {}
        for box in boxes:
            if column[box.key] <= level <= last[box.key]:
                sources = [i for i in box.inputs if i in column] if column[box.key] == level else [box.key]
                wishes[box.key] = fmean(middle[i, level - 1] for i in sources) if sources else 0.0
        bottom, pushed = float("-inf"), []
        for key in sorted(wishes, key=lambda k: wishes[k]):
            half = (NODE_H if column[key] == level else EDGE_H) / 2
            middle[key, level] = max(wishes[key], bottom + GAP_Y + half)
            bottom = middle[key, level] + half
            pushed.append(middle[key, level] - wishes[key])
        for key in wishes:
            middle[key, level] -= fmean(pushed)
    top = min(y - (NODE_H if column[key] == level else EDGE_H) / 2 for (key, level), y in middle.items())
    return {slot: y - top for slot, y in middle.items()}


def draw(boxes: Sequence[Box]) -> Markup:
    """The whole graph; each box is a link. Raises ValueError without boxes."""
    if not boxes:
        raise ValueError("a graph needs at least one step")
    pad, column, middle = 4.0, columns_of(boxes), layout(boxes)
    width = (max(column.values()) + 1) * (NODE_W + GAP_X) - GAP_X + 2 * pad
    height = max(y + (NODE_H if column[key] == level else EDGE_H) / 2 for (key, level), y in middle.items()) + 2 * pad

    def left(level: int) -> float:
        return pad + level * (NODE_W + GAP_X)

    # An edge that skips levels passes through a slot of its own at each of them, so that it crosses no box.
    pairs = [((key, level), (key, level + 1)) for key, level in middle if (key, level + 1) in middle]
    pairs += [((i, column[b.key] - 1), (b.key, column[b.key])) for b in boxes for i in b.inputs if i in column]
    edges = [f"M{left(level):.1f},{y + pad:.1f}h{NODE_W:g}" for (k, level), y in middle.items() if level > column[k]]
    for start, end in pairs:
        x0, x1, y0, y1 = left(end[1]) - GAP_X, left(end[1]), middle[start] + pad, middle[end] + pad
        edges.append(f"M{x0:.1f},{y0:.1f}C{x0 + 20:.1f},{y0:.1f} {x1 - 20:.1f},{y1:.1f} {x1:.1f},{y1:.1f}")
    parts = [f'<path class="edge" d="{"".join(edges)}"/>']
    for box in boxes:
        x, y = left(column[box.key]), middle[box.key, column[box.key]] - NODE_H / 2 + pad
        words = "".join(
            f'<text class="l{i}" x="{x + 11:.1f}" y="{y + 17 + 14.5 * i:.1f}"{_fitted(line, WIDTHS[i])}</text>'
            for i, line in enumerate(box.lines)
        )
        parts.append(
            f'<a href="{escape(box.link)}" class="node {box.colour}"><title>{escape(box.title or box.key)}</title>'
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{NODE_W:g}" height="{NODE_H:g}" rx="7"/>'
            f'<path class="edge-mark" d="M{x:.1f},{y + 10:.1f}v{NODE_H - 20:.1f}"/>{words}</a>'
        )
    said = "; ".join(f"{b.key} from {', '.join(b.inputs)}" if b.inputs else b.key for b in boxes)
    return Markup(
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" style="--w:{width:.0f}px" role="group" '
        f'aria-label="{escape(f"Graph of {len(boxes)} steps: {said}")}">{"".join(parts)}</svg>'
    )


def _fitted(line: str, width: float) -> str:
    """The rest of a text element's tag, and its text, so that it stays in its box."""
    most = int(SQUEEZE * ROOM / width)
    shown = line if len(line) <= most else f"{line[: most - 1].rstrip()}\u2026"
    squeezed = f' textLength="{ROOM:g}" lengthAdjust="spacingAndGlyphs"' if len(shown) * width > ROOM else ""
    return f"{squeezed}>{escape(shown)}"
