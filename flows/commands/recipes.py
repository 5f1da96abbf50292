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
        typer.Argument(help="an artifact's id or a folder: adds how many of its parameters each stage trains"),
    ] = None,
) -> None:
    """Show the training stages: what trains in each, and which losses count (paper, table 1)."""
    from rich.table import Table

    from model.stage_table import PARTS, STAGES, trains

    counts = _counts(checkpoint) if checkpoint else {}
    table = Table("stage", *PARTS, "losses", box=None, pad_edge=False)
    if counts:
        table.add_column("trained", justify="right")
    table.add_column("note")
    for row in STAGES.values():
        losses = "LM + guidance" if row.guidance_loss else "LM"
        share = [f"{sum(counts[row.name]['trainable'].values()):,}"] if counts else []
        table.add_row(row.name, *trains(row).values(), losses, *share, row.note)
    if counts:
        total = next(iter(counts.values()))["total"]
        table.add_section()
        table.add_row("parameters", *(f"{total[part]:,}" for part in PARTS), "", f"{sum(total.values()):,}", "")
    console().print(table)


def _counts(checkpoint: str) -> dict[str, dict[str, dict[str, int]]]:
    """Parameters of each part, in all and trained, by stage. In a process of its own: it imports the model's code."""
    from flows.commands.artifacts import checkpoint_folder
    from flows.environment import process_environment
    from flows.home import ROOT
    from model.errors import StepError

    command = [sys.executable, "-m", "pipeline.parameter_counts", str(checkpoint_folder(checkpoint))]
    result = subprocess.run(command, cwd=ROOT, env=process_environment({}), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise StepError(f"could not count the parameters of {checkpoint}: {result.stderr.strip()[-500:]}")
    counts: dict[str, dict[str, dict[str, int]]] = json.loads(result.stdout)
    return counts


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (recipes, stages):
        app.command(rich_help_panel="Runs")(command)
