"""The verdicts of `agevlm gc` as tables and as JSON."""

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flows.cli.terminal import size_text
from pipeline.artifacts.gc import Verdict
from pipeline.artifacts.spec import short

ALONE = frozenset({"artifact", "damaged artifact"})
"""Things that are listed one by one when they are kept; of others there may be thousands."""
RECORDS = frozenset({"progress", "job file", "run file"})
"""Small files that are listed one by one with '--all' only."""
SHOWN = 200
"""Rows of one table. `--json` has all."""


def gc_tables(verdicts: Sequence[Verdict], all: bool) -> list[RenderableType]:
    """A table of what is kept and one of what may go; files of kept records are summed unless `all` is set."""
    kept, gone = [v for v in verdicts if v.keep], [v for v in verdicts if not v.keep]
    parts: list[RenderableType] = []
    for title, colour, some in (("kept", "green", kept), ("not needed", "yellow", gone)):
        summed = [v for v in some if not all and _is_summed(v)]
        listed = [v for v in some if all or not _is_summed(v)]
        if listed:
            parts.append(_table(title, listed, colour))
        sums: dict[str, list[Verdict]] = {}
        for verdict in summed:
            sums.setdefault(verdict.thing.what, []).append(verdict)
        for what, more in sums.items():
            parts.append(Text(f"{title}, too: {_amount(more)}: {what} ('--all' lists them)"))
        if some:
            parts.append(Text(""))
    return parts


def _is_summed(verdict: Verdict) -> bool:
    """True for things of which only the number and size are shown."""
    return verdict.thing.what not in ALONE if verdict.keep else verdict.thing.what in RECORDS


def _table(title: str, verdicts: Sequence[Verdict], colour: str) -> Table:
    table = Table(f"[{colour}]{title}[/]", "what", "size", "why", box=None, pad_edge=False)
    for verdict in verdicts[:SHOWN]:
        thing = verdict.thing
        table.add_row(Text(path_text(verdict), overflow="fold"), thing.what, size_text(thing.size), Text(verdict.why))
    if len(verdicts) > SHOWN:
        table.add_row(f"and {len(verdicts) - SHOWN} more", "", "", "")
    return table


def path_text(verdict: Verdict) -> str:
    """The path of a thing with its id cut to 12 digits."""
    thing = verdict.thing
    return thing.path.replace(thing.id, short(thing.id)) if len(thing.id) > 12 else thing.path


def _amount(verdicts: Sequence[Verdict]) -> str:
    return f"{len(verdicts)}, {size_text(sum(v.thing.size for v in verdicts))}"


def summary(verdicts: Sequence[Verdict]) -> str:
    """'12 artifacts are kept (3.4 GB). 3 artifacts and 14 other things are not needed (1.2 GB)'."""
    kept = [v for v in verdicts if v.keep and v.thing.what == "artifact"]
    gone = [v for v in verdicts if not v.keep]
    artifacts = sum(v.thing.what == "artifact" for v in gone)
    return (
        f"{len(kept)} artifacts are kept ({size_text(sum(v.thing.size for v in kept))}). {artifacts} artifacts and "
        f"{len(gone) - artifacts} other things are not needed ({size_text(sum(v.thing.size for v in gone))})"
    )


def as_json(verdict: Verdict, removed: bool | None = None, trouble: str = "") -> dict[str, Any]:
    """One verdict as plain data; `removed` is None in a dry run."""
    thing = verdict.thing
    value = {
        "path": thing.path,
        "what": thing.what,
        "id": thing.id or None,
        "files": thing.files,
        "bytes": thing.size,
        "changed": thing.changed,
        "keep": verdict.keep,
        "why": verdict.why,
    }
    return value | ({} if removed is None else {"removed": removed, "trouble": trouble or None})
