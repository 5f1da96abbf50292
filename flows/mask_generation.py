"""`mask-generation/pretrain` and `mask-generation/instruct`: the masks of one data set, with settings to try."""

from typing import Any

from prefect import State, flow

from flows.run.cancellation import note_crash, stop_jobs
from flows.run.parameters import (
    DatasetParameter,
    Force,
    Limit,
    RecipeName,
    documented,
    resolve,
    with_mask_parameters,
)
from flows.run.run_recipe import run_recipe
from pipeline.plan.planner import mask_recipe


@flow(
    name="mask-generation",
    on_cancellation=[stop_jobs],
    on_crashed=[note_crash],
    persist_result=False,
)
@documented
@with_mask_parameters
def mask_generation(
    dataset: DatasetParameter = "pretrain",
    recipe: RecipeName = "miniature",
    limit: Limit = None,
    force: Force = False,
    **masks: Any,
) -> State[Any]:
    """Make the masks of one data set (inventory, subset, segment, masks), with other settings than the recipe's.

    agevlm/full-recipe takes the same parameters; given the same values, it finds these masks.
    """
    # A new attempt of segment gives masks a new id by itself; masks is named for the case that only it was finished.
    forced = (f"segment-{dataset}", f"masks-{dataset}") if force else ()
    return run_recipe(
        lambda: mask_recipe(resolve(recipe, limit=limit, masks=masks), dataset), until=f"masks-{dataset}", force=forced
    )
