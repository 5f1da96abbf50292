"""The list of commands in `agevlm --help`, in groups."""

from typing import Any

from typer.core import TyperGroup

WIDTH = 100
"""Columns of the help, on a terminal that has so many."""


class GroupedCommands(TyperGroup):
    """Lists the commands below the name of their group (`rich_help_panel`), in the order of their registration."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section for each group. A command shows the first sentence of its docstring."""
        widest = max(map(len, self.commands))
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            text = command.get_short_help_str(formatter.width - 6 - widest)
            group = getattr(command, "rich_help_panel", None) or "Commands"
            sections.setdefault(group, []).append((name.ljust(widest), text))
        for group, rows in sections.items():
            with formatter.section(group):
                formatter.write_dl(rows)
