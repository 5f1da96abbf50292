"""What `make demo` shows, on its own artifacts: what every seed that was tried has shown, less a margin.

The seeds and their figures are in docs/miniature-runs.md. Where guidance did not help in all of them, nothing is held.
"""

import json
from typing import Any

import pytest

from flows.cli.surroundings import offline_settings
from flows.run.preparation import planner
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.plan.recipe import load_recipe
from pipeline.plan.status import existing

pytestmark = pytest.mark.system

Scores = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def made() -> dict[str, Artifact]:
    """The artifacts of the miniature recipe, by the keys of its plan."""
    settings = offline_settings()
    recipe, store = load_recipe("miniature"), ArtifactStore(settings.store)
    plan = planner(recipe, settings)(store.attempt)
    found = existing(plan, store)
    if len(found) < len(plan):
        pytest.skip(f"{len(plan) - len(found)} artifacts of the miniature recipe are missing: run make demo first")
    return found


@pytest.fixture(scope="module")
def scores(made: dict[str, Artifact]) -> Scores:
    """Variant -> 'benchmark.metric' -> value."""
    found: Scores = {}
    for key, artifact in made.items():
        if artifact.ref.kind == "evaluation":
            with artifact.open("scores.json") as stream:
                content: dict[str, Any] = json.loads(stream.read())
            named = {f"{s['benchmark']}.{s['metric']}": s["value"] for s in content["scores"]}
            found[key.removeprefix("evaluate-")] = named
    return found
