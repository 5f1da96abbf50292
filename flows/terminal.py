"""What the commands print with: one console, and progress lines with the time since the command began."""

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> "Console":
    """The console on standard output. Where that is no terminal, lines are not wrapped."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=200, soft_wrap=True)


def say() -> Callable[[str], None]:
    """A function that prints a line with the seconds since now before it, at once."""
    started = time.monotonic()

    def line(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)

    return line


def rows_of(rejected: dict[str, int]) -> str:
    """Rejects by reason, in words: '3 rejected (2 no_region, 1 truncated)', or ''."""
    if not rejected:
        return ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items(), key=lambda i: (-i[1], i[0])))
    return f"{sum(rejected.values())} rejected ({reasons})"


def duration(seconds: float | None) -> str:
    """Seconds for people: '0.4 s', '41 s', '3 min 20 s'; '-' if unknown."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"
