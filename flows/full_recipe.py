"""`agevlm/full-recipe`: from raw data to the report, every step that a recipe's variants need."""

from typing import Any

from prefect import State, flow

from flows.run.cancellation import note_crash, stop_jobs
from flows.run.parameters import (
    ForceSteps,
    Limit,
    RecipeName,
    Until,
    Variants,
    documented,
    resolve,
    with_mask_parameters,
)
from flows.run.run_recipe import run_recipe


@flow(
    name="agevlm",
    on_cancellation=[stop_jobs],
    on_crashed=[note_crash],
    persist_result=False,
)
@documented
@with_mask_parameters
def full_recipe(
    recipe: RecipeName = "miniature",
    variants: Variants = None,
    until: Until = None,
    limit: Limit = None,
    force: ForceSteps = None,
    **masks: Any,
) -> State[Any]:
    """Make every artifact of a recipe: inventory, overlap, subset, segment, masks, pack, stages 1-4, evaluate, report.

    Artifacts that exist are not made again. Running it again continues with what is not made yet; a training stage
    that was interrupted starts over.
    """
    return run_recipe(
        lambda: resolve(recipe, variants=variants, limit=limit, masks=masks), until=until, force=force or ()
    )
