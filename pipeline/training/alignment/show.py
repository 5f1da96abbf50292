"""A proof as a person can check it: guided words in their conversation, cells over the picture, areas."""

import io
import itertools
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.training.alignment.proof import Judged, Proof
from pipeline.training.alignment.truth import LEAST_IOU
from pipeline.training.alignment.words import Words

DRAWN = 3
"""Rows that are drawn: the wrong ones first."""
MARKS = ("[[", "]]")
GUIDED, INSIDE, PADDING = "##", "..", "  "
"""A cell is two characters wide, so that the square looks like one."""
COLUMN = 44
CONTEXT = 160
"""Characters of a conversation that are shown before and after the guided ones."""


def print_proof(proof: Proof, words: Words, console: Console, drawn: int = DRAWN) -> None:
    """Print the outcome, the faults that would have been seen, and a few rows."""
    for part in _parts(proof, words, drawn):
        console.print(part, soft_wrap=isinstance(part, Text))


def proof_text(proof: Proof, words: Words, drawn: int = DRAWN) -> str:
    """The same as plain text, for a log."""
    sink = io.StringIO()
    print_proof(proof, words, Console(file=sink, width=118, color_system=None, legacy_windows=False), drawn)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines()) + "\n"


def _parts(proof: Proof, words: Words, drawn: int) -> Iterator[Text | Table | Padding]:
    wrong = sum(bool(row.problems) for row in proof.rows)
    rows = f"{len(proof.rows)} rows with a mask, of the first {proof.looked_at:,} of training, {proof.seconds:.1f} s"
    yield Text.assemble(
        f"alignment of {proof.stage}: ",
        ("all right", "bold green") if not proof.problems else (f"{wrong} rows are wrong", "bold red"),
        f" ({rows})",
    )
    if proof.truth is not None:
        best = max(proof.truth.turned_iou.values())
        yield Text(
            f"  true masks of {proof.truth.rows} rows: mean IoU {proof.truth.iou:.2f} (at most {best:.2f} if the masks "
            f"are turned); they explain {100 * proof.truth.explained:.0f} % of the pictures' colours (at most "
            f"{100 * max(proof.truth.turned_explained.values()):.0f} % if they are turned or moved)"
        )
        if proof.truth.iou < LEAST_IOU:
            yield Text("  the masks hardly fit the true ones, so these cannot tell if the masks are in their places")
    if proof.visible:
        seen = {name: count for name, count in proof.visible.items() if count}
        unseen = [name for name, count in proof.visible.items() if not count]
        if seen:
            least = min(seen, key=lambda name: seen[name])
            yield Text(
                f"  {len(seen)} kinds of fault would have shown, each on {seen[least]} ({least}) to "
                f"{max(seen.values())} rows"
            )
        if unseen:
            yield Text(f"  faults that none of these rows can show: {', '.join(unseen)}", style="yellow")
    for problem in proof.problems[:DRAWN]:
        yield Text(f"  wrong: {problem}", style="red")
    for row in sorted(proof.rows, key=lambda row: (not row.problems, row.claim is None))[:drawn]:
        yield Padding(_row(row, proof.square.grid, words), (1, 0, 0, 2))


def _row(row: Judged, grid: int, words: Words) -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_column(no_wrap=True)
    table.add_column(max_width=max(COLUMN, 112 - 2 * grid), overflow="fold")
    table.add_row(_cells(row, grid), Text("\n").join(_facts(row, words)))
    return table


def _facts(row: Judged, words: Words) -> Iterator[Text]:
    yield Text(row.sample_id, style="bold")
    if row.claim is not None:
        yield Text(f"turn {row.claim.fact.turn}, {row.claim.fact.query_kind}")
    yield Text("")
    yield conversation(row, words)
    yield Text("")
    yield from map(Text, area_lines(row))


def _cells(row: Judged, grid: int) -> Text:
    names = np.where(row.shown.cells, GUIDED, np.where(row.shown.valid, INSIDE, PADDING)).reshape(grid, grid)
    return Text("\n".join("".join(line) for line in names))


def conversation(row: Judged, words: Words) -> Text:
    """The conversation's tokens as text; the guided ones are marked."""
    ids, guided = row.shown.ids, row.shown.query
    edges = [0, *(np.flatnonzero(np.diff(guided.astype(np.int8))) + 1).tolist(), len(ids)]
    out = Text()
    for first, last in itertools.pairwise(edges):
        text = words.text(ids[first:last]).replace("\n", "\\n")
        if guided[first]:
            out.append(MARKS[0] + text + MARKS[1], style="bold black on yellow")
        else:
            out.append(_shortened(text, first == 0, last == len(ids)), style="dim")
    return out


def area_lines(row: Judged) -> list[str]:
    """The mask's share of the image, of the square and of the cells."""
    if row.claim is None:
        return ["no mask guides this row"]
    fact, shown = row.claim.fact, row.shown
    share = fact.area / (fact.height * fact.width)
    inside = int(shown.valid.sum())
    return [
        f"picture {fact.width} x {fact.height}, mask {fact.area:,} pixels",
        f"{100 * share:.1f} % of the image, {100 * row.square_share:.1f} % of the square",
        f"{int(shown.cells.sum())} of {inside} cells with image pixels, {100 * shown.cells.mean():.1f} % of all",
    ]


def _shortened(text: str, first: bool, last: bool) -> str:
    """A text cut where it is far from guided words."""
    if first and len(text) > CONTEXT:
        return "..." + text[-CONTEXT:]
    if last and len(text) > CONTEXT:
        return text[:CONTEXT] + "..."
    return text if len(text) <= 2 * CONTEXT else f"{text[:CONTEXT]} ... {text[-CONTEXT:]}"
