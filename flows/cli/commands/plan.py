"""agevlm plan."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from flows.cli.terminal import console
from flows.run.parameters import MASK_PARAMETERS, resolve, with_mask_parameters

if TYPE_CHECKING:
    from rich.table import Table

    from flows.run.settings import Settings
    from pipeline.plan.planner import Plan
    from pipeline.plan.recipe import Recipe
    from pipeline.plan.status import Verdict

COLOURS = {"cached": "blue", "to check": "cyan", "to run": "green", "stale": "yellow", "blocked": "yellow"}


def plan(
    recipe: Annotated[str, typer.Argument(help="a recipe's name or file ('agevlm recipes')")] = "miniature",
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="ca_baseline, age_vlm or age_vlm_lm; may be repeated")
    ] = None,
    until: Annotated[str | None, typer.Option(help="only what this step needs: a key or a step's name")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first N records of each data set")] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="write each step's SPEC.json, for 'python -m pipeline run'")
    ] = None,
    **masks: Any,
) -> None:
    """Show every step of a recipe: the CPUs and GPUs that it asks for, and if it is cached, to run or stale, and why.

    The options are the parameters of the deployments. Nothing is run, and no stack is needed.
    """
    from flows.cli.surroundings import offline_settings
    from flows.run.preparation import planner
    from pipeline.artifacts.store import ArtifactStore
    from pipeline.plan.status import verdicts

    settings = offline_settings()
    # The recipe checks the names of variants.
    chosen = resolve(recipe, variants=variants or None, limit=limit, masks=masks)  # type: ignore[arg-type]
    store = ArtifactStore(settings.store)
    steps = planner(chosen, settings, until)(store.attempt)
    found = verdicts(steps, store)
    out = console()
    out.print(_table(found))
    counts = {condition: sum(v.condition == condition for v in found) for condition in COLOURS}
    summary = ", ".join(f"{count} {condition}" for condition, count in counts.items() if count)
    out.print(f"\n{len(found)} steps: {summary}   (store: {settings.store})", highlight=False)
    stale = {v.step.key for v in found if v.condition == "stale"}
    # Forcing a step makes everything after it again too, so only the first stale steps are named.
    first = [v.step.key for v in found if v.step.key in stale and not stale & set(v.step.inputs.values())]
    if first:
        names = ", ".join(f'"{key}"' for key in first)
        out.print(f"Stale steps fail. To make them again beside the old ones: -p 'force=[{names}]'", highlight=False)
    if json is not None:
        _write_specs(steps, chosen, settings, json)
        out.print(
            f"wrote {len(steps)} specs to {json}; run them in order: python -m pipeline run FILE", highlight=False
        )


def _table(found: "Sequence[Verdict]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from pipeline.artifacts.spec import short

    table = Table("step", "id", "asks for", "state", "why", box=None, pad_edge=False)
    for verdict in found:
        state = Text(verdict.condition, COLOURS[verdict.condition])
        table.add_row(verdict.step.key, short(verdict.step.id), str(verdict.step.resources), state, Text(verdict.why))
    return table


def _write_specs(steps: "Plan", recipe: "Recipe", settings: "Settings", folder: Path) -> None:
    """Write SPEC.json of every step, with its place in the plan in the file's name."""
    from flows.run.settings import git_commit
    from pipeline.plan.job import job_of
    from pipeline.plan.locations import locations_of

    locations = locations_of(recipe, settings.store, str(settings.scratch))
    commit = git_commit(settings.repo)
    folder.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(steps, start=1):
        job = job_of(step, steps, locations, commit)
        (folder / f"{number:02d}-{step.key}.json").write_text(job.model_dump_json(indent=1), encoding="utf-8")


def _as_option(parameter: inspect.Parameter) -> inspect.Parameter:
    """A flow's parameter as an option of the command line. The recipe checks its limits."""
    text = MASK_PARAMETERS[parameter.name].model_fields[parameter.name].description
    kind, *_ = get_args(parameter.annotation)
    return parameter.replace(annotation=Annotated[kind, typer.Option(help=f"{text} (default: as the recipe says)")])


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Runs")(with_mask_parameters(plan, _as_option))
