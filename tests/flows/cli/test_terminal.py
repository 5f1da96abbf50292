"""Texts from data are shown on the terminal: no markup, no control code of theirs has an effect."""

import io

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.cli.terminal import console, progress_lines, visible

EVIL = "a\x1b[2J\x1b]0;title\x07\x9bm\rb\u202ec"


def test_control_codes_are_shown_and_do_nothing() -> None:
    shown = visible(EVIL)
    assert shown.isprintable()
    assert shown.startswith("a\N{REPLACEMENT CHARACTER}[2J")
    assert visible("two\tcells\nand a line: \u00e9 \u4e2d") == "two\tcells\nand a line: \u00e9 \u4e2d"


@pytest.mark.parametrize("wrap", [str, Text])
def test_the_console_shows_control_codes_of_texts_and_keeps_its_own_colours(wrap: type) -> None:
    console.cache_clear()
    kind: type[Console] = type(console())
    out = io.StringIO()
    table = Table(box=None, show_header=False)
    table.add_row(Text("name", "red"), wrap(EVIL))
    kind(file=out, force_terminal=True, color_system="standard", width=120).print(table)
    assert "\x1b[31mname" in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()
    assert "\x07" not in out.getvalue()
    assert "\u202e" not in out.getvalue()


def test_progress_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    progress_lines()(EVIL)
    assert capsys.readouterr().out.rstrip("\n").isprintable()
