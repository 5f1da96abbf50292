"""agevlm demo, run, report."""

import json
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.terminal import progress_lines


def demo(
    recipe: Annotated[
        str, typer.Option(metavar="RECIPE", help="a recipe's name or file ('agevlm recipes')")
    ] = "miniature",
    until: Annotated[
        str | None, typer.Option(metavar="STEP", help="stop after this step: a key or a step's name")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="only the first N records of each data set")] = None,
) -> None:
    """Start the stack and run a recipe up to its report.

    Shows live progress. Ends with a table of steps, the report's path and the addresses of Prefect and Ray. The exit
    code is 0 if the flow completed. Ctrl-C cancels the run, and ends the stack if this command started it.
    """
    from flows.cli.follow import run_demo

    raise typer.Exit(run_demo(recipe, until, limit, progress_lines()))


def run(
    deployment: Annotated[
        str, typer.Argument(metavar="DEPLOYMENT", help="for example agevlm/full-recipe or mask-generation/pretrain")
    ],
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
    from flows.cli.follow import run_deployment

    raise typer.Exit(run_deployment(deployment, parse_parameters(param or []), watch, progress_lines()))


def parse_parameters(pairs: list[str]) -> dict[str, Any]:
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


def report(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="a recipe's name or file; the newest report of any recipe if left out"),
    ] = None,
    open: Annotated[bool, typer.Option("--open", help="open the page in the browser as well")] = False,
) -> None:
    """Print the path of the newest report."""
    from flows.cli.artifact_view import short_path
    from flows.cli.surroundings import open_store
    from model.errors import ArtifactError, ConfigError
    from pipeline.plan.recipe import load_recipe

    store = open_store()
    name = load_recipe(recipe).name if recipe is not None and Path(recipe).is_file() else recipe
    damaged: list[ArtifactError] = []  # a damaged manifest of another report does not matter here
    found = [a for a in store.artifacts(damaged, kind="report") if name in (None, a.ref.name)]
    if not found:
        of = "" if name is None else f" of the recipe '{name}'"
        raise ArtifactError(f"there is no report{of} in {store.root}; 'agevlm demo' runs a recipe up to its report")
    newest = max(found, key=lambda artifact: artifact.manifest.provenance.started)
    (page,) = newest.matching(suffix=".html")
    path = short_path(newest.location(page)) if store.is_local else newest.location(page)
    print(path, flush=True)
    if open and not webbrowser.open(Path(path).as_uri() if store.is_local else path):
        raise ConfigError(f"no browser was found; open {path} by hand")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (demo, run, report):
        app.command(rich_help_panel="Runs")(command)
