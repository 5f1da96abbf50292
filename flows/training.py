"""`training/stages`: the training stages of a recipe's variants, without evaluation and report."""

from typing import Any

from prefect import State, flow

from flows.run.cancellation import note_crash, stop_jobs
from flows.run.parameters import ForceSteps, LastStage, Limit, RecipeName, Variants, documented, resolve
from flows.run.run_recipe import run_recipe


@flow(
    name="training",
    on_cancellation=[stop_jobs],
    on_crashed=[note_crash],
    persist_result=False,
)
@documented
def stages(
    recipe: RecipeName = "miniature",
    variants: Variants = None,
    until: LastStage = "stage4",
    limit: Limit = None,
    force: ForceSteps = None,
) -> State[Any]:
    """Train the four stages of each variant; make the packs and masks that they need and that do not exist yet.

    A stage that was interrupted starts over. The masks have the recipe's settings; to train on masks with other
    settings, give these to agevlm/full-recipe with until.
    """
    return run_recipe(lambda: resolve(recipe, variants=variants, limit=limit), until=until, force=force or ())
