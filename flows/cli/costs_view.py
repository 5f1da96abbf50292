"""The costs of a plan on the terminal: a table, the totals, and the arithmetic behind each figure."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.plan.costs.estimate import Estimate
from pipeline.plan.costs.figures import Figure

MEMORY = ("weights", "gradients", "optimizer", "activations", "workspace", "peak")


def costs(found: Estimate, explain: bool) -> Iterator[RenderableType]:
    """Everything about the costs. explain: with one line of arithmetic for each figure."""
    yield Text(f"\ncosts on {found.cluster.name}", "bold")
    yield _steps(found)
    if any("peak" in step.figures for step in found.steps):
        yield Text("\nmemory of one worker, with rows of the greatest length", "bold")
        yield _memory(found)
    yield Text("\nin all", "bold")
    for figure in found.totals:
        yield Text(f"{figure.name} {figure.text}: {figure.how}")
    for note in found.notes:
        yield Text(f"- {note}", "dim")
    for warning in found.warnings:
        yield Text(f"does not fit: {warning}", "bold red")
    if explain:
        yield Text("\narithmetic", "bold")
        yield _arithmetic(found)
    else:
        yield Text("--explain prints the arithmetic behind each figure", "dim")


def _cell(figure: Figure | None) -> str:
    return "" if figure is None else figure.text


def _steps(found: Estimate) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("step")
    table.add_column("state")
    memory = "GPU memory" if found.cluster.gpu else "memory"
    for title in ("samples", "tokens", "FLOPs", memory, "time", "storage"):
        table.add_column(title, justify="right", no_wrap=True)
    for step in found.steps:
        names = ("samples", "tokens", "FLOPs", "peak", "time", "storage")
        table.add_row(step.key, step.condition, *(_cell(step.figures.get(name)) for name in names))
    return table


def _memory(found: Estimate) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("step")
    for title in MEMORY:
        table.add_column(title, justify="right", no_wrap=True)
    for step in found.steps:
        if "peak" in step.figures:
            table.add_row(step.key, *(_cell(step.figures.get(name)) for name in MEMORY))
    return table


def _arithmetic(found: Estimate) -> Table:
    table = Table("step", "figure", "arithmetic", box=None, pad_edge=False)
    for step in found.steps:
        for figure in step.figures.values():
            table.add_row(step.key, figure.name, Text(f"{figure.text} = {figure.how}", overflow="fold"))
    return table
