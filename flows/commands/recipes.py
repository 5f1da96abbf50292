"""agevlm recipes, stages: what can be run, and what each training stage trains."""

import json
import subprocess
import sys
from typing import Annotated

import typer

from flows.terminal import console


def recipes() -> None:
    """List the recipes that ship with the project."""
    from rich.table import Table

    from pipeline.recipe import available, load_recipe

    table = Table("recipe", "variants", "what it is", "file", box=None, pad_edge=False)
    for name, path in available().items():
        recipe = load_recipe(name)
        table.add_row(name, ", ".join(recipe.variants), recipe.description, str(path))
    console().print(table)


def stages(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="whose parameters are counted: an artifact's id or a folder; the paper's model if left out"
        ),
    ] = None,
) -> None:
    """Show what each training stage trains, in parameters (table 1).

    Each column shows how many parameters of that part the stage trains; the last row how many there are.
    """
    from rich.table import Table

    from model.stage_table import PARTS, STAGES, trains

    counts = _counts(checkpoint)
    table = Table("stage", box=None, pad_edge=False)
    for part in (*PARTS, "in all"):
        table.add_column(part, justify="right")
    table.add_column("losses")
    table.add_column("note")
    for row in STAGES.values():
        losses = "LM + guidance" if row.guidance_loss else "LM"
        trained = counts[row.name]["trainable"]
        cells = [_cell(what, trained[part]) for part, what in trains(row).items()]
        table.add_row(row.name, *cells, f"{sum(trained.values()):,}", losses, row.note)
    total = next(iter(counts.values()))["total"]
    table.add_row("parameters", *(f"{total[part]:,}" for part in PARTS), f"{sum(total.values()):,}", "", "")
    console().print(table)


def _cell(what: str, trained: int) -> str:
    """'frozen', or the number of trained parameters, with the share's name where it is not the whole part."""
    if what == "frozen":
        return what
    return f"{trained:,}" if what == "trained" else f"{what} {trained:,}"


def _counts(checkpoint: str | None) -> dict[str, dict[str, dict[str, int]]]:
    """Parameters of each part, in all and trained, by stage. In a process of its own: it imports the model's code."""
    from flows.environment import process_environment
    from flows.state import store_in_use
    from model.errors import ConfigError

    command = [sys.executable, "-P", "-m", "pipeline.parameter_counts", *([checkpoint] if checkpoint else [])]
    surroundings = process_environment({"AGEVLM_STORE": store_in_use()})
    result = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = result.stderr.strip().splitlines()[-1:] or ["it ended without a word"]
        raise ConfigError(f"the parameters of {checkpoint or 'the paper'} could not be counted: {last[0]}")
    counts: dict[str, dict[str, dict[str, int]]] = json.loads(result.stdout)
    return counts


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (recipes, stages):
        app.command(rich_help_panel="Runs")(command)
