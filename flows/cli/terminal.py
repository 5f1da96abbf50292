"""The console of the commands, progress lines with the elapsed time, and numbers formatted for people."""

import time
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

Say = Callable[[str], None]
"""Prints one line of progress."""


@cache
def console() -> "Console":
    """The console on standard output. If that is no terminal, lines are not wrapped."""
    from rich.console import Console
    from rich.segment import Segment

    class PlainText(Console):
        """A console on which texts, which may come from data, show their control codes and do nothing else."""

        def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> "Iterable[Segment]":
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(visible(segment.text), segment.style)

    found = PlainText()
    return found if found.is_terminal else PlainText(width=200, soft_wrap=True)


def visible(text: str) -> str:
    """A text without control codes: data could move the cursor with them, or change what the terminal shows."""
    if text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or not unicodedata.category(c).startswith("C") else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def progress_lines() -> Say:
    """A function that prints a line at once, after the seconds since this call."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {visible(text)}", flush=True)

    return say


def rejects_text(rejected: dict[str, int]) -> str:
    """Rejects by reason: '3 rejected (2 no_region, 1 truncated)', or '' if there are none."""
    if not rejected:
        return ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items(), key=lambda i: (-i[1], i[0])))
    return f"{sum(rejected.values())} rejected ({reasons})"


def duration(seconds: float | None) -> str:
    """A time: '0.4 s', '41 s', '3 min 20 s', or '-' if unknown."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"


def size_text(size: int) -> str:
    """A number of bytes: '7 B', '1.5 MB'; 1 KB is 1024 bytes."""
    value, unit = float(size), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if value < 1024 or unit == "TB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
