"""Markdown tables whose cells hold any text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def table(head: Sequence[str], rows: Iterable[tuple[str, str | Sequence[str]]]) -> str:
    """A table; a row is its first cell and the one or more that follow."""
    lines = [[cell(h) for h in head], ["---"] * len(head)]
    lines += [[cell(first), *map(cell, [rest] if isinstance(rest, str) else rest)] for first, rest in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(facts: Mapping[str, Mapping[str, str]]) -> str:
    """A table with one column per title and one row for every fact that any of them has."""
    names = dict.fromkeys(name for column in facts.values() for name in column)
    return table(("", *facts), ((name, [column.get(name, "-") for column in facts.values()]) for name in names))


def cell(text: str) -> str:
    """Text that stays inside one cell, and is text: it opens no HTML and no further cell."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
