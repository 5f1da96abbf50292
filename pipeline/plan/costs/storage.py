"""The bytes that each step of a plan is expected to write to the store, for the check before it starts."""

from model.errors import AgevlmError
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.costs.amounts import Given
from pipeline.plan.costs.cluster import cluster
from pipeline.plan.costs.estimate import estimate
from pipeline.plan.costs.student import student_of
from pipeline.plan.planner import Plan
from pipeline.plan.recipe import Recipe
from pipeline.plan.status import Verdict, existing

SAFETY = {"pack": 3}
"""Step -> divisor of its figure: the size of an image is an assumption there, and must not stop a run that fits."""


def expected_storage(recipe: Recipe, plan: Plan, store: ArtifactStore) -> dict[str, int]:
    """Step key -> bytes, of the steps whose artifact is missing and whose storage follows from the recipe.

    {} if the recipe's student is not known, as before its weights were fetched.
    """
    artifacts = existing(plan, store)
    missing = [Verdict(step, "to run", "") for step in plan if step.key not in artifacts]
    try:
        costs = estimate(recipe, missing, artifacts, student_of(recipe), cluster("cpu"), Given({}, {}), None, None)
    except AgevlmError:
        return {}
    found = {step.key: step.figures["storage"].value for step in costs.steps if "storage" in step.figures}
    return {key: int(size) // SAFETY.get(plan[key].step.name, 1) for key, size in found.items() if size is not None}
