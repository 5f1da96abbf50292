"""agevlm plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.terminal import console

if TYPE_CHECKING:
    from flows.settings import Settings

COLOURS = {"cached": "blue", "to check": "cyan", "to run": "green", "stale": "yellow", "blocked": "yellow"}


def plan(
    recipe: Annotated[str, typer.Argument(help="a recipe's name or file ('agevlm recipes')")] = "miniature",
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="ca_baseline, age_vlm or age_vlm_lm; may be repeated")
    ] = None,
    until: Annotated[str | None, typer.Option(help="only what this step needs: a key or a step's name")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first N records of each data set")] = None,
    min_polygon_score: Annotated[float | None, typer.Option(help="gate of masks")] = None,
    min_sam_iou: Annotated[float | None, typer.Option(help="gate of masks")] = None,
    min_agreement_iou: Annotated[float | None, typer.Option(help="gate of masks")] = None,
    min_area: Annotated[float | None, typer.Option(help="gate of masks")] = None,
    max_area: Annotated[float | None, typer.Option(help="gate of masks")] = None,
    prompt: Annotated[str | None, typer.Option(help="what Florence-2 is asked")] = None,
    sam_prompt: Annotated[str | None, typer.Option(help="what SAM is given: box, box_and_mask or points")] = None,
    beams: Annotated[int | None, typer.Option(help="of Florence-2's decoding")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="of Florence-2's decoding")] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="write each step's SPEC.json, for 'python -m pipeline run'")
    ] = None,
) -> None:
    """Show every step of a recipe: cached, to run or stale, and why.

    The options are the parameters of the deployments. Nothing is run, and no stack is needed.
    """
    from rich.table import Table
    from rich.text import Text

    from flows.explain import verdicts
    from flows.parameters import MaskParameters, resolve
    from flows.preparation import planner
    from pipeline.artifacts.spec import short
    from pipeline.artifacts.store import ArtifactStore

    masks = MaskParameters(
        min_polygon_score=min_polygon_score,
        min_sam_iou=min_sam_iou,
        min_agreement_iou=min_agreement_iou,
        min_area=min_area,
        max_area=max_area,
        prompt=prompt,
        sam_prompt=sam_prompt,
        beams=beams,
        max_new_tokens=max_new_tokens,
    )
    settings = offline_settings()
    # The names of variants are checked by the recipe.
    chosen = resolve(recipe, variants=variants or None, limit=limit, masks=masks)  # type: ignore[arg-type]
    store = ArtifactStore(settings.store)
    steps = planner(chosen, settings, until)(store.attempt)
    found = verdicts(steps, store)
    table = Table("step", "id", "state", "why", box=None, pad_edge=False)
    for verdict in found:
        state = Text(verdict.condition, COLOURS[verdict.condition])
        table.add_row(verdict.step.key, short(verdict.step.id), state, Text(verdict.why))
    out = console()
    out.print(table)
    counts = {condition: sum(v.condition == condition for v in found) for condition in COLOURS}
    summary = ", ".join(f"{count} {condition}" for condition, count in counts.items() if count)
    out.print(f"\n{len(found)} steps: {summary}   (store: {settings.store})", highlight=False)
    stale = {v.step.key for v in found if v.condition == "stale"}
    roots = [v.step.key for v in found if v.step.key in stale and not stale & set(v.step.inputs.values())]
    if roots:
        names = ", ".join(f'"{key}"' for key in roots)
        out.print(f"Stale steps fail. To make them anew beside the old ones: -p 'force=[{names}]'", highlight=False)
    if json is not None:
        from flows.settings import git_commit
        from pipeline.job import job_of
        from pipeline.site import site_of

        site = site_of(chosen, settings.store, str(settings.scratch))
        commit = git_commit(settings.repo)
        json.mkdir(parents=True, exist_ok=True)
        for number, step in enumerate(steps, start=1):
            job = job_of(step, steps, site, commit)
            (json / f"{number:02d}-{step.key}.json").write_text(job.model_dump_json(indent=1), encoding="utf-8")
        out.print(
            f"wrote {len(steps)} specs to {json}; run them in order: python -m pipeline run FILE", highlight=False
        )


def offline_settings() -> "Settings":
    """A flow's settings for work that needs no Ray."""
    from flows.home import ROOT, scratch
    from flows.settings import Settings
    from flows.state import store_in_use

    return Settings(store=store_in_use(), scratch=scratch(), jobs_url="", repo=ROOT)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Runs")(plan)
