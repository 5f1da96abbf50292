"""The `agevlm` command. `--help` answers at once, because each command imports slow modules only when it runs."""

import io
import os
import sys

import typer

from flows.cli.commands import artifacts, events, housekeeping, masks, plan, recipes, run, stack, student
from flows.cli.groups import WIDTH, GroupedCommands
from flows.cli.terminal import visible
from infra.local.private import UMASK, read_umask
from infra.local.stack_file import StackError
from model.errors import AgevlmError
from pipeline.artifacts.room import explained

app = typer.Typer(
    name="agevlm",
    cls=GroupedCommands,
    context_settings={"max_content_width": WIDTH},
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="AGE-VLM as a pipeline: from raw image-text data to a trained, evaluated model.\n\n"
    "Start with 'agevlm demo'. Artifacts lie in $AGEVLM_STORE, the local stack's state in $AGEVLM_HOME "
    "(by default .agevlm in the project's folder).",
)
for group in (stack, run, events, plan, artifacts, housekeeping, masks, recipes, student):
    group.register(app)


def main() -> None:
    """Run the command line. Errors that are meant for users are printed as one message, with exit code 1.

    The files that it makes are for their owner only, as those of the stack, unless `$AGEVLM_UMASK` says otherwise.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal's encoding lacks is no error
            stream.reconfigure(errors="backslashreplace")
    try:
        os.umask(read_umask(os.environ.get(UMASK)))
        app(prog_name="agevlm")
    except BrokenPipeError:  # the reader of a pipe ('| head') has closed it
        sys.stderr.close()
        raise SystemExit(0) from None
    except (AgevlmError, StackError) as error:
        print(visible(f"{type(error).__name__}: {error}"), file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except OSError as error:
        print(visible(f"{type(error).__name__}: {explained(error)}"), file=sys.stderr, flush=True)
        raise SystemExit(1) from None
