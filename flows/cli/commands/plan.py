"""agevlm plan."""

import inspect
from collections.abc import Iterator, Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from flows.cli.terminal import console
from flows.run.parameters import MASK_PARAMETERS, resolve, with_mask_parameters

if TYPE_CHECKING:
    from rich.table import Table

    from flows.run.settings import Settings
    from pipeline.plan.costs.estimate import Estimate
    from pipeline.plan.planner import Plan
    from pipeline.plan.recipe import Recipe
    from pipeline.plan.status import Verdict

COSTS = "costs.json"
COLOURS = {"cached": "blue", "to check": "cyan", "to run": "green", "stale": "yellow", "blocked": "yellow"}


def plan(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="a recipe's name or file ('agevlm recipes')")
    ] = "miniature",
    variants: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="VARIANT", help="ca_baseline, age_vlm or age_vlm_lm; may be repeated"),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="STEP", help="only what this step needs: a key or a step's name")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="only the first N records of each data set")] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="write each step's SPEC.json, for 'python -m pipeline run'")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="CLUSTER",
            help="show the costs on this machine ('cpu') or on NxCARD: 8xA100-80G, 2xH200, 1xRTX4090-24G",
        ),
    ] = None,
    samples: Annotated[
        list[str] | None, typer.Option(metavar="DATASET=N", help="records of a data set that is not here yet")
    ] = None,
    tokens: Annotated[
        list[str] | None, typer.Option(metavar="DATASET=N", help="mean text tokens of its rows, where no pack tells")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="print the arithmetic behind each figure")] = False,
    **masks: Any,
) -> None:
    """Show every step of a recipe: cached, to run or stale.

    With the reason, and the CPUs and GPUs that the step asks for. With --cluster also its costs: samples, tokens,
    FLOPs, memory, time and storage. They need neither data nor weights. 'agevlm calibrate RECIPE' makes the times of
    this machine exact. The other options are the parameters of the deployments. Nothing is run, and no stack is needed.
    """
    from rich.markup import escape

    from flows.cli.costs_view import costs as costs_view
    from flows.cli.surroundings import offline_settings
    from flows.run.preparation import planner
    from model.errors import ConfigError, DataError
    from pipeline.artifacts.store import ArtifactStore
    from pipeline.plan.fingerprints import outside_names
    from pipeline.plan.planner import plan as make_plan
    from pipeline.plan.status import Verdict, verdicts

    settings = offline_settings()
    # The recipe checks the names of variants.
    chosen = resolve(recipe, variants=variants or None, limit=limit, masks=masks)  # type: ignore[arg-type]
    store = ArtifactStore(settings.store)
    out = console()
    try:
        steps = planner(chosen, settings, until)(store.attempt)
    except (ConfigError, DataError) as error:
        if cluster is None or json is not None:
            raise
        # Costs are wanted before the data are paid for. Without data and weights no id is known, so nothing is cached.
        out.print(
            f"[yellow]ids are not known[/], so every step counts as to run: {escape(str(error))}", highlight=False
        )
        whole = make_plan(chosen, lambda _: 0, {outside: outside for outside in outside_names(chosen)})
        steps = whole if until is None else whole.until(until)
        found = [Verdict(step, "to run", "") for step in steps]
    else:
        found = verdicts(steps, store)
        out.print(_table(found))
    costs = _costs(chosen, found, settings, cluster, samples, tokens) if cluster is not None else None
    if costs is not None:
        for part in costs_view(costs, explain):
            out.print(part)
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
        if costs is not None:
            (json / COSTS).write_text(dumps(costs.to_json(), indent=1), encoding="utf-8")
        out.print(
            f"wrote {len(steps)} specs to {json}; run them in order: python -m pipeline run FILE", highlight=False
        )


def _costs(
    recipe: "Recipe",
    found: "Sequence[Verdict]",
    settings: "Settings",
    name: str,
    samples: Sequence[str] | None,
    tokens: Sequence[str] | None,
) -> "Estimate":
    from pipeline.artifacts.store import ArtifactStore
    from pipeline.plan.costs.amounts import Given
    from pipeline.plan.costs.calibration import calibration_file, read_calibration, this_machine
    from pipeline.plan.costs.cluster import cluster, free_disk
    from pipeline.plan.costs.estimate import estimate
    from pipeline.plan.costs.student import student_of
    from pipeline.plan.planner import Plan
    from pipeline.plan.status import existing

    on, student = cluster(name), student_of(recipe)
    given = Given({k: int(v) for k, v in _numbers("samples", samples)}, dict(_numbers("tokens", tokens)))
    file = calibration_file(settings.scratch, recipe, student, this_machine())
    # A calibration is of this machine's CPUs; figures of a card come from the table of peaks.
    calibration = None if on.gpu else read_calibration(file)
    artifacts = existing(Plan(v.step for v in found), ArtifactStore(settings.store))
    return estimate(recipe, found, artifacts, student, on, given, calibration, free_disk(settings.store))


def _numbers(option: str, said: Sequence[str] | None) -> Iterator[tuple[str, float]]:
    """Data set and number of each 'DATASET=N'. Raises ConfigError."""
    from model.errors import ConfigError
    from pipeline.plan.planner import DATASETS

    for text in said or ():
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if name not in DATASETS or not 1 <= value < float("inf"):
            raise ConfigError(
                f"--{option} {text}: write DATASET=N with N from 1 on; data sets are {', '.join(DATASETS)}"
            )
        yield name, value


def _table(found: "Sequence[Verdict]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from pipeline.artifacts.spec import short

    table = Table("step", "id", "asks for", "state", "why", box=None, pad_edge=False)
    for verdict in found:
        state = Text(verdict.condition, COLOURS[verdict.condition])
        why = f"{verdict.why}; {verdict.versions}" if verdict.versions else verdict.why
        table.add_row(verdict.step.key, short(verdict.step.id), str(verdict.step.resources), state, Text(why))
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


def calibrate(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="a recipe's name or file ('agevlm recipes')")
    ] = "miniature",
) -> None:
    """Measure how fast this machine trains a recipe.

    'agevlm plan --cluster cpu' uses it for its times. Each stage trains on random batches for some seconds. The result
    is kept in the scratch folder, for this machine, student, micro-batch, precision and version of torch.
    """
    from flows.cli.surroundings import offline_settings, run_student_program
    from flows.run.preparation import planner
    from pipeline.artifacts.store import ArtifactStore
    from pipeline.plan.costs.amounts import Given, amounts
    from pipeline.plan.recipe import load_recipe
    from pipeline.plan.status import existing

    settings, chosen = offline_settings(), load_recipe(recipe)
    store = ArtifactStore(settings.store)
    steps = planner(chosen, settings)(store.attempt)
    found = amounts(chosen, existing(steps, store), Given({}, {}))
    data = {}
    for step in steps:
        if step.step.group == "training":
            amount = found[step.inputs["pack"].removeprefix("pack-")]
            told = {"step": step.step.name, "tokens": amount.tokens, "targets": amount.targets}
            data[str(step.spec.params["row"])] = told
    raise typer.Exit(run_student_program("calibrate", [recipe, dumps(data)]).returncode)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Plans")(with_mask_parameters(plan, _as_option))
    app.command(rich_help_panel="Plans")(calibrate)
