"""The `agevlm` command. Answers `--help` at once: what is slow to import is imported by the command that needs it."""

import sys

import typer

from flows.commands import artifacts, ask, export, plan, recipes, run, stack
from model.errors import AgevlmError

app = typer.Typer(
    name="agevlm",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="AGE-VLM as a pipeline: from raw image-text data to a trained, evaluated model.\n\n"
    "Start with 'agevlm demo'. Artifacts lie in $AGEVLM_STORE, the local stack's state in $AGEVLM_HOME "
    "(by default .agevlm in the project's folder).",
)
for group in (stack, run, plan, artifacts, recipes, ask, export):
    group.register(app)


def main() -> None:
    """Run the command line; errors that are meant for people are printed as one message, with exit code 1."""
    try:
        app(prog_name="agevlm")
    except BrokenPipeError:  # the reader of a pipe ('| head') has had enough
        sys.stderr.close()
        raise SystemExit(0) from None
    except (AgevlmError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
