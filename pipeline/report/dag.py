"""The run's graph of steps as inline SVG: left to right, one column per depth, edges that go round the nodes.

A small layered layout (after Sugiyama): depth by longest path, a chain of unseen nodes where an edge crosses columns
(shared by all edges of one source, so that they run as one line until they part), columns ordered by the mean position
of their neighbours, then heights relaxed towards them.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

NODE_W, NODE_H, GAP_X, GAP_Y, SEEN_NOT_H = 126.0, 68.0, 34.0, 16.0, 8.0
SWEEPS, MAX_STARTS = 24, 8
ROOM = NODE_W - 18  # for a line of text
WIDTHS = (7.5, 5.9, 6.02, 5.5)  # of a character in each of a box's lines, in the widest of the page's fonts
SQUEEZE = 1.2  # how much too long a line may be and still be drawn whole, its letters closer together


@dataclass(frozen=True)
class Box:
    """One step as it is drawn: text lines from top to bottom, colour class, link and the keys of its inputs."""

    key: str
    lines: tuple[str, ...]
    colour: str
    link: str
    inputs: tuple[str, ...]
    title: str = ""


Node = tuple[str, int]  # (key of the source, column); the box itself is at its own column


def columns_of(boxes: Sequence[Box]) -> dict[str, int]:
    """Column of each box: the longest way from a box without inputs. Raises ValueError on a circle."""
    inputs = {box.key: [i for i in box.inputs if i != box.key] for box in boxes}
    found: dict[str, int] = {}

    def depth(key: str, path: tuple[str, ...]) -> int:
        if key in path:
            raise ValueError(f"the steps form a circle: {' -> '.join((*path, key))}")
        if key not in found:
            found[key] = max((depth(i, (*path, key)) + 1 for i in inputs[key] if i in inputs), default=0)
        return found[key]

    for box in boxes:
        depth(box.key, ())
    return found


def layout(boxes: Sequence[Box]) -> tuple[dict[Node, float], dict[Node, set[Node]]]:
    """Centre height of every node (boxes and unseen ones) and the edges from each node to the next column's."""
    column = columns_of(boxes)
    after: dict[Node, set[Node]] = defaultdict(set)
    levels: dict[int, list[Node]] = defaultdict(list)
    for box in boxes:
        levels[column[box.key]].append((box.key, column[box.key]))
    for box in boxes:
        for source in box.inputs:
            if source not in column:
                continue
            previous: Node = (source, column[source])
            for level in range(column[source] + 1, column[box.key]):
                step: Node = (source, level)
                if step not in after[previous]:
                    after[previous].add(step)
                    levels[level].append(step)
                previous = step
            after[previous].add((box.key, column[box.key]))
    before: dict[Node, set[Node]] = defaultdict(set)
    for node, targets in after.items():
        for target in targets:
            before[target].add(node)
    seen = {(key, level) for key, level in column.items()}
    # Where relaxing ends depends on where it begins: begin with each turn of the first column and keep the tidiest.
    first = levels[0]
    starts = [{**levels, 0: first[i:] + first[:i]} for i in range(len(first))]
    starts += [{**levels, 0: list(reversed(start[0]))} for start in starts]
    tries = (_relax({k: list(v) for k, v in start.items()}, before, after, seen) for start in starts[:MAX_STARTS])
    return min(tries, key=lambda heights: _untidiness(heights, after)), after


def _untidiness(heights: dict[Node, float], after: dict[Node, set[Node]]) -> float:
    """Crossings of edges, and their climb in boxes as a tie-break."""
    spans: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for node, targets in after.items():
        spans[node[1]] += [(heights[node], heights[target]) for target in targets]
    crossings = sum(
        (a[0] - b[0]) * (a[1] - b[1]) < 0 for group in spans.values() for i, a in enumerate(group) for b in group[:i]
    )
    climb = sum(abs(a - b) for group in spans.values() for a, b in group)
    return crossings + climb / (NODE_H * 10)


def _relax(
    levels: dict[int, list[Node]], before: dict[Node, set[Node]], after: dict[Node, set[Node]], seen: set[Node]
) -> dict[Node, float]:
    """Sweep over the columns, moving each node towards the mean of its neighbours and the columns' nodes apart."""
    size = {node: NODE_H if node in seen else SEEN_NOT_H for nodes in levels.values() for node in nodes}
    height: dict[Node, float] = {}
    for nodes in levels.values():
        top = 0.0
        for node in nodes:
            height[node] = top + size[node] / 2
            top += size[node] + GAP_Y

    def wish(node: Node, neighbours: set[Node]) -> float:
        values = [height[n] for n in neighbours]
        return sum(values) / len(values) if values else height[node]

    order = sorted(levels)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for level in order if forward else reversed(order):
            nodes = levels[level]
            last = sweep >= SWEEPS - 4
            sides = {n: (before[n] | after[n]) if last else (before[n] if forward else after[n]) for n in nodes}
            wishes = {n: wish(n, sides[n]) for n in nodes}
            nodes.sort(key=lambda n: (wishes[n], n[0]))
            places = [wishes[n] for n in nodes]
            for _ in range(30):  # push neighbours apart from both sides until they fit
                for i in range(len(nodes) - 1):
                    need = (size[nodes[i]] + size[nodes[i + 1]]) / 2 + GAP_Y
                    lack = need - (places[i + 1] - places[i])
                    if lack > 1e-6:
                        places[i] -= lack / 2
                        places[i + 1] += lack / 2
            for i in range(len(nodes) - 1):
                need = (size[nodes[i]] + size[nodes[i + 1]]) / 2 + GAP_Y
                places[i + 1] = max(places[i + 1], places[i] + need)
            height.update(zip(nodes, places, strict=True))
    top = min(height[n] - size[n] / 2 for n in height)
    return {n: value - top for n, value in height.items()}


def draw(boxes: Sequence[Box]) -> Markup:
    """The whole graph. Each node links to its row in the table of steps. Raises ValueError without boxes."""
    if not boxes:
        raise ValueError("a graph needs at least one step")
    heights, after = layout(boxes)
    column = columns_of(boxes)
    pad = 4.0
    width = (max(column.values()) + 1) * (NODE_W + GAP_X) - GAP_X + 2 * pad
    bottom = max(h + (NODE_H / 2 if column.get(n[0]) == n[1] else 0) for n, h in heights.items()) + 2 * pad

    def left(node: Node) -> float:
        return pad + node[1] * (NODE_W + GAP_X)

    edges = []
    for node in sorted(after):
        y0 = heights[node] + pad
        if column[node[0]] != node[1]:
            edges.append(f"M{left(node):.1f},{y0:.1f}h{NODE_W:.1f}")
        for target in sorted(after[node]):
            x0, x1, y1 = left(node) + NODE_W, left(target), heights[target] + pad
            bend = GAP_X * 0.6
            edges.append(f"M{x0:.1f},{y0:.1f}C{x0 + bend:.1f},{y0:.1f} {x1 - bend:.1f},{y1:.1f} {x1:.1f},{y1:.1f}")
    parts = [f'<path class="edge" d="{"".join(edges)}"/>']
    for box in boxes:
        node = (box.key, column[box.key])
        x, y = left(node), heights[node] - NODE_H / 2 + pad
        text = "".join(
            f'<text class="l{i}" x="{x + 11:.1f}" y="{y + 17 + 14.5 * i:.1f}"{_fitted(line, WIDTHS[i])}</text>'
            for i, line in enumerate(box.lines)
        )
        parts.append(
            f'<a href="{escape(box.link)}" class="node {box.colour}"><title>{escape(box.title or box.key)}</title>'
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{NODE_W:g}" height="{NODE_H:g}" rx="7"/>'
            f'<path class="edge-mark" d="M{x:.1f},{y + 10:.1f}v{NODE_H - 20:.1f}"/>{text}</a>'
        )
    label = f"Graph of {len(boxes)} steps: " + "; ".join(
        f"{b.key} from {', '.join(b.inputs)}" if b.inputs else b.key for b in boxes
    )
    return Markup(
        f'<svg class="dag" viewBox="0 0 {width:.0f} {bottom:.0f}" style="--w:{width:.0f}px" role="group" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _fitted(line: str, width: float) -> str:
    """The end of a text element's tag and its text, so that it stays in its box: squeezed a little, else cut."""
    most = int(SQUEEZE * ROOM / width)
    shown = line if len(line) <= most else f"{line[: most - 1].rstrip()}\u2026"
    squeezed = f' textLength="{ROOM:g}" lengthAdjust="spacingAndGlyphs"' if len(shown) * width > ROOM else ""
    return f"{squeezed}>{escape(shown)}"
