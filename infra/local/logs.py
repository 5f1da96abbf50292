"""Rotation of the stack's log files: `prefect.log`, then `prefect.log.1` (newer) to `prefect.log.3` (oldest)."""

import os
from pathlib import Path

LONGEST = 16 << 20
"""Bytes from which a log is set aside before its process starts again."""
KEPT = 3
"""Logs of each process that are kept besides the one in use."""


def rotate(log: Path, longest: int = LONGEST, kept: int = KEPT) -> None:
    """Set a log aside if it is longer than `longest` bytes, and forget the oldest.

    Only for a process that is not running yet: a running one goes on writing to the file that it opened.
    """
    try:
        if log.stat().st_size < longest:
            return
    except FileNotFoundError:
        return
    for number in range(kept, 0, -1):
        older = log.with_name(f"{log.name}.{number - 1}") if number > 1 else log
        if older.exists():
            os.replace(older, log.with_name(f"{log.name}.{number}"))
