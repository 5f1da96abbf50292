"""agevlm recipes, stages: lists the recipes, and the parameters that each training stage trains."""

import json
from typing import Annotated

import typer

from flows.cli.terminal import console


def recipes() -> None:
    """List the recipes that ship with the project."""
    from rich.table import Table

    from pipeline.plan.recipe import available, load_recipe

    table = Table("recipe", "variants", "time", "disk", "description", "file", box=None, pad_edge=False)
    for name, path in available().items():
        recipe = load_recipe(name)
        minutes, gib = recipe.expected_minutes, recipe.expected_gib
        table.add_row(
            name,
            ", ".join(recipe.variants),
            "-" if minutes is None else f"{minutes:g} min",
            "-" if gib is None else f"{gib:g} GiB",
            recipe.description,
            str(path),
        )
    console().print(table)
    console().print("\ntime and disk: measured on 2 CPU cores; '-' was not measured", highlight=False)


def stages(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="an artifact's id or a folder; its parameters are counted (default: the paper's model)",
        ),
    ] = None,
) -> None:
    """Show the parameters that each stage trains.

    That is table 1 of the paper. A column is a part of the model, a cell the number of its parameters that the stage
    trains. The last row has the number of all parameters.
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
        cells = [_cell(share, trained[part]) for part, share in trains(row).items()]
        table.add_row(row.name, *cells, f"{sum(trained.values()):,}", losses, row.note)
    total = next(iter(counts.values()))["total"]
    table.add_row("parameters", *(f"{total[part]:,}" for part in PARTS), f"{sum(total.values()):,}", "", "")
    console().print(table)


def _cell(share: str, trained: int) -> str:
    """'frozen', or the number of trained parameters, after the name of the share if it is not the whole part."""
    if share == "frozen":
        return share
    return f"{trained:,}" if share == "trained" else f"{share} {trained:,}"


def _counts(checkpoint: str | None) -> dict[str, dict[str, dict[str, int]]]:
    """Number of parameters: stage -> 'total' or 'trainable' -> part -> number."""
    from flows.cli.surroundings import run_student_program
    from model.errors import ConfigError

    result = run_student_program("parameter_counts", [checkpoint] if checkpoint else [], capture_output=True)
    if result.returncode != 0:
        last = result.stderr.strip().splitlines()[-1:] or ["the program printed no error"]
        raise ConfigError(f"the parameters of {checkpoint or 'the paper'} could not be counted: {last[0]}")
    counts: dict[str, dict[str, dict[str, int]]] = json.loads(result.stdout)
    return counts


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Plans")(recipes)
    app.command(rich_help_panel="Models")(stages)
