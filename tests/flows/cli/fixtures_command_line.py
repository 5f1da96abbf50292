"""Runs the command line in this process, as a user sees it."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from flows.cli.app import main
from flows.cli.terminal import console


@dataclass(frozen=True)
class Result:
    """The output of a command, and its exit code."""

    code: int
    output: str
    error: str


def agevlm(*arguments: str) -> Result:
    """Run `agevlm ARGUMENTS`."""
    out, err = io.StringIO(), io.StringIO()
    console.cache_clear()
    code = 0
    with redirect_stdout(out), redirect_stderr(err), patch("sys.argv", ["agevlm", *arguments]):
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    console.cache_clear()
    return Result(code, out.getvalue(), err.getvalue())
