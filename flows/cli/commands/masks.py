"""agevlm compare, gates: what a rerun of mask generation changed, and gates for a wanted precision."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.terminal import console

if TYPE_CHECKING:
    from pipeline.masks.price import Price
    from pipeline.report.compare import Comparison

ROWS = 12
"""Rows of a table of outcomes in the terminal."""


def compare(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="id or name of an artifact of kind masks")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="id or name of another one, made later")],
    page: Annotated[
        Path | None, typer.Option(metavar="OUT.html", help="the page to write (default: compare-BEFORE-AFTER.html)")
    ] = None,
) -> None:
    """Say what a rerun of mask generation changed.

    Masks may be lost, gained or changed. Rows are counted by the reason why their mask was lost or gained; masks of
    both are compared by their IoU. The page shows the 50 pictures that differ most. No model runs.
    """
    from flows.cli.surroundings import open_store
    from pipeline.artifacts.spec import short
    from pipeline.report.compare import compare as compare_masks
    from pipeline.report.compare_page import compare_page

    store = open_store()
    first, second = store.find(before, "masks"), store.find(after, "masks")
    comparison = compare_masks(first, second)
    out = console()
    out.print(f"before  {first.ref}\nafter   {second.ref}\n", highlight=False)
    for part in _comparison_tables(comparison):
        out.print(part, highlight=False)
    if comparison.nothing_changed:
        out.print("\nNothing changed.", highlight=False)
    target = page or Path(f"compare-{short(first.ref.id)}-{short(second.ref.id)}.html")
    target.write_text(compare_page(comparison), encoding="utf-8")
    out.print(f"\nThe pictures that differ most: {target}", highlight=False)


def gates(
    id: Annotated[str, typer.Argument(metavar="ID", help="id or name of an artifact of kind masks or segments")],
    precision: Annotated[float, typer.Option(min=0.01, max=1, help="wanted share of good masks")] = 0.9,
    iou: Annotated[float, typer.Option(min=0.01, max=1, help="IoU with the truth from which a mask is good")] = 0.7,
) -> None:
    """Find gates that accept good masks.

    For example at least 90 % masks with an IoU of 0.7 or more. Needs a data set with a truth, such as the miniature
    world or COCO. The gates are fitted on half of its images and checked on the other half. A mask of an object that is
    not in the image is a bad one. No model runs.
    """
    from rich.markup import escape
    from rich.table import Table

    from flows.cli.surroundings import open_store
    from pipeline.masks.prices import prices_of

    found = prices_of(open_store().find(id, "masks", "segments"), iou, precision)
    out = console()
    out.print(
        f"{found.masks} masks of {found.segments} have a known truth; the gates were fitted on {found.fitted} of them "
        f"and checked on the other {found.held_out}.\n",
        highlight=False,
    )
    table = Table("IoU from", "wanted", "predicted", "held out", "95 % interval", "kept", "", box=None, pad_edge=False)
    for price in found.prices:
        table.add_row(*map(escape, _price_cells(price)), style="bold" if price is found.asked else None)
    out.print(table)
    asked = found.asked
    if asked.gates is None:
        out.print(f"\nNo setting of the gates reaches a precision of {precision:g} at IoU {iou:g}.", highlight=False)
        raise typer.Exit(1)
    out.print(f"\nFor a precision of {precision:g} at IoU {iou:g} ({escape(asked.verdict)}), set in the recipe:\n")
    print(_yaml(asked.gates))


def _comparison_tables(found: "Comparison") -> list[Any]:
    from rich.markup import escape
    from rich.table import Table

    parts: list[Any] = []
    settings = found.settings()
    if settings:
        table = Table("setting", "before", "after", box=None, pad_edge=False)
        for name, old, new in settings:
            table.add_row(name, *("-" if value is None else escape(str(value)) for value in (old, new)))
        parts += [table, ""]
    agreement, unchanged = found.agreement, sum(n for (old, new), n in found.moves.items() if old == new)
    table = Table("", "queries", "", box=None, pad_edge=False)
    rows = [("in both", found.both, ""), ("  with the same outcome", unchanged, "")]
    rows += [("lost their mask", sum(found.lost.values()), _reasons(found.lost))]
    rows += [("gained a mask", sum(found.gained.values()), _reasons(found.gained))]
    other = {f"{old} -> {new}": number for (old, new), number in found.other_moves.items()}
    rows += [("other reason, no mask", sum(other.values()), _reasons(other))]
    rows += [("masks in both", agreement["count"], f"{found.equal} are the same to the pixel")]
    rows += [("only before", found.only_before.total(), _reasons(dict(found.only_before.most_common())))]
    rows += [("only after", found.only_after.total(), _reasons(dict(found.only_after.most_common())))]
    rows += [
        ("with another text", found.other_text, ""),
        ("with another image size", found.other_frame, "not compared"),
    ]
    for name, number, words in rows:
        if number or name in ("in both", "lost their mask", "gained a mask"):
            table.add_row(name, str(number), escape(words) if number else "")
    parts.append(table)
    if agreement["count"]:
        quantiles = "  ".join(f"{float(q):.0%}: {value:.3f}" for q, value in agreement["quantiles"].items())
        parts += ["", f"IoU of the masks in both: mean {agreement['mean']:.3f}; quantiles  {quantiles}"]
    return parts


def _reasons(numbers: dict[str, int]) -> str:
    shown = list(numbers.items())[:ROWS]
    words = ", ".join(f"{number} {name}" for name, number in shown)
    rest = sum(numbers.values()) - sum(number for _, number in shown)
    return f"{words}, {rest} other" if rest else words


def _price_cells(price: "Price") -> list[str]:
    cells = [f"{price.iou:g}", f"{price.wanted:g}"]
    if price.predicted is None or price.kept is None:
        return [*cells, "-", "-", "-", "-", price.verdict]
    checked = "-" if price.held_out is None else f"{price.held_out:.3f}"
    interval = "-" if price.low is None or price.high is None else f"{price.low:.2f} to {price.high:.2f}"
    return [*cells, f"{price.predicted:.3f}", checked, interval, f"{price.kept:.1%}", price.verdict]


def _yaml(values: Any) -> str:
    """The section `gates` of a recipe."""
    from pipeline.masks.config import MaskGates

    texts = {n: str(v).lower() if isinstance(v, bool) else f"{v:g}" for n, v in values.items()}
    return "\n".join(["gates:", *(f"  {name}: {texts[name]}" for name in MaskGates.model_fields if name in texts)])


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (compare, gates):
        app.command(rich_help_panel="Masks")(command)
