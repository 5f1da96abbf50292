"""agevlm demo, run."""

import json
from typing import Annotated, Any

import typer

from flows.terminal import say


def demo(
    recipe: Annotated[str, typer.Option(help="a recipe's name or file ('agevlm recipes')")] = "miniature",
    until: Annotated[str | None, typer.Option(help="stop after this step: a key or a step's name")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first N records of each data set")] = None,
) -> None:
    """Start the stack and run the whole recipe, with live progress.

    Ends with a table of steps, the report's path and the addresses of Prefect and Ray. The exit code is 0 if the flow
    completed. Ctrl-C cancels the run, and ends the stack if this command started it.
    """
    from flows.demo import demo as run_demo

    raise typer.Exit(run_demo(recipe, until, limit, say()))


def run(
    deployment: Annotated[str, typer.Argument(help="for example agevlm/full-recipe or mask-generation/pretrain")],
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="a parameter; its value is JSON, or else a text"),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="follow the run to its end; exit code 0 if it completed")
    ] = False,
) -> None:
    """Run a deployment on the local stack.

    For example: agevlm run mask-generation/pretrain -p min_sam_iou=0.6 --watch
    """
    from flows.demo import run as run_deployment

    raise typer.Exit(run_deployment(deployment, parse(param or []), watch, say()))


def parse(pairs: list[str]) -> dict[str, Any]:
    """Parameters from 'name=value' texts. Raises ConfigError if one has no '=', or a name comes twice."""
    from model.errors import ConfigError

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"-p '{pair}': write NAME=VALUE, for example -p limit=50")
        if name in found:
            raise ConfigError(f"-p {name} is given twice; give it once")
        try:
            found[name] = json.loads(text)
        except json.JSONDecodeError:
            found[name] = text
    return found


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (demo, run):
        app.command(rich_help_panel="Runs")(command)
