"""The difference of two artifacts as tables and as JSON."""

from collections.abc import Iterator
from json import dumps
from math import isfinite
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.artifacts.difference import FILES, Difference
from pipeline.artifacts.spec import short

SHOWN = 30
"""Rows of one section. `--json` has all."""
LONGEST = 60


def difference_tables(found: Difference) -> Iterator[RenderableType]:
    """A heading, then one table for each section that has a difference."""
    one, two = found.before, found.after
    yield Text(f"before  {one.ref}   {one.manifest.counts.summary}, made {one.manifest.provenance.started[:16]}")
    yield Text(f"after   {two.ref}   {two.manifest.counts.summary}, made {two.manifest.provenance.started[:16]}")
    if one.ref.kind != two.ref.kind:
        yield Text(f"\nA {one.ref.kind} and a {two.ref.kind}: only what both have can be compared.", "yellow")
    if found.same_content:
        yield Text(f"\nSame content: sha256 {one.manifest.content_sha256}", "green")
    elif found.same_files:
        yield Text("\nSame data files: every checksum is equal.", "green")
    for section in dict.fromkeys(change.section for change in found.changes):
        changes = [change for change in found.changes if change.section == section]
        table = Table(f"[bold]{section}[/]", "before", "after", "", box=None, pad_edge=False)
        for change in changes[:SHOWN]:
            table.add_row(*(Text(text, overflow="fold") for text in _cells(change.name, change.before, change.after)))
        if len(changes) > SHOWN:
            table.add_row(f"and {len(changes) - SHOWN} more", "", "", "")
        yield Text("")
        yield table
    if not found.changes and not found.same_content:
        yield Text("\nNothing differs but the time of their making.", "green")


def _cells(name: str, before: Any, after: Any) -> tuple[str, str, str, str]:
    both = [before, after]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in both)
    return name, _text(before), _text(after), f"{after - before:+.4g}" if numbers else ""


def _text(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def hint(found: Difference) -> str:
    """The command that says more about two artifacts of this kind; '' if there is none."""
    one, two = found.before.ref, found.after.ref
    if one.kind == two.kind == "masks" and any(change.section == FILES for change in found.changes):
        return f"Mask by mask, with pictures: agevlm compare {short(one.id)} {short(two.id)}"
    return ""


def _plain(value: Any) -> Any:
    """A value without NaN and infinity, which are no JSON: they become texts."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def as_json(found: Difference) -> dict[str, Any]:
    """The difference as plain data."""
    changes: dict[str, dict[str, Any]] = {}
    for change in found.changes:
        both = {"before": _plain(change.before), "after": _plain(change.after)}
        changes.setdefault(change.section, {})[change.name] = both
    return {
        "before": found.before.ref.model_dump(),
        "after": found.after.ref.model_dump(),
        "same_content": found.same_content,
        "same_files": found.same_files,
        "changes": changes,
    }
