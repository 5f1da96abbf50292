"""Adding a step needs only what CONTRIBUTING says: a module, a parameter model, a row and a place in the plan."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import Field

from model.errors import ConfigError
from pipeline.artifacts.lineage import lineage
from pipeline.artifacts.store import ArtifactStore
from pipeline.config import Config
from pipeline.plan import planner
from pipeline.plan.fingerprints import Fingerprints, outside_names
from pipeline.plan.job import job_of
from pipeline.plan.locations import locations_of
from pipeline.plan.planner import PlanBuilder, plan
from pipeline.plan.recipe import Recipe, load_recipe
from pipeline.plan.status import verdicts
from pipeline.plan.step_table import STEPS, Step
from pipeline.report.collect import collect
from pipeline.steps.runner import run_job

MODULE = '''
"""count_words: words of the questions and answers of an inventory."""

import pyarrow.parquet as pq

from pipeline.artifacts.manifest import Counts
from pipeline.steps.context import Outcome, StepContext


def run(context: StepContext) -> Outcome:
    """Count the words of every record."""
    folder = context.input_path("inventory", "records/") / "records"
    records = [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    words = sum(len(f"{t['question']} {t['answer']}".split()) for row in records for t in row["turns"])
    shards = context.staging.shards()
    seal = shards.commit("words", {"words.txt": f"{words}\\n".encode()}, len(records))
    context.progress.update(len(records), len(records))
    counts = Counts(unit=context.step.unit, rows_in=len(records), rows_out=len(records))
    return Outcome(counts, {"words": words}, seals=[seal])
'''


class CountWordsParams(Config):
    """count_words: the way of counting words."""

    lower: bool = Field(default=True, description="count 'A' and 'a' as one word")


def add_counts(builder: PlanBuilder) -> None:
    """Add the step to a plan."""
    builder.add("count_words", "pretrain", {}, {"inventory": "inventory-pretrain"}, "count_words-pretrain")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The miniature recipe, in a project with one more step."""
    package = tmp_path / "more_steps"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "count_words.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    row = Step(
        name="count_words",
        summary="count words",
        kind="word-count",
        unit="record",
        params=CountWordsParams,
        entry="more_steps.count_words:run",
        inputs={"inventory": "inventory"},
    )
    monkeypatch.setitem(STEPS, row.name, row)
    parts: tuple[Callable[[PlanBuilder], None], ...] = (*planner.PARTS[:-1], add_counts, planner.PARTS[-1])
    monkeypatch.setattr(planner, "PARTS", parts)
    monkeypatch.delitem(sys.modules, "more_steps", raising=False)
    monkeypatch.delitem(sys.modules, "more_steps.count_words", raising=False)
    return load_recipe("miniature").override(limit=20)


def test_a_new_step_is_planned_run_listed_and_reported(recipe: Recipe, tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    store = ArtifactStore(root)
    fingerprints = Fingerprints(tmp_path / "scratch").recipe(recipe, set(outside_names(recipe)))
    steps = plan(recipe, store.attempt, fingerprints).until("count_words")
    assert [step.key for step in steps] == ["inventory-pretrain", "count_words-pretrain"]
    for step in steps:
        artifact = run_job(job_of(step, steps, locations_of(recipe, root, str(tmp_path / "scratch"))))
    assert artifact.manifest.statistics["words"] > 20
    assert artifact.verify() == []
    assert [node.ref.kind for node in lineage(store, artifact)] == ["word-count", "inventory"]
    assert {v.condition for v in verdicts(steps, store)} == {"cached"}
    assert store.find(artifact.ref.id[:12]).ref == artifact.ref
    found = {f"{step.step.kind}/{step.key}": store.require(step.ref) for step in steps}
    run = collect(recipe.name, recipe.variants, found)
    assert [view.key for view in run.steps] == ["inventory-pretrain", "count_words-pretrain"]


def test_the_report_reads_the_new_steps_artifact(recipe: Recipe) -> None:
    steps = plan(recipe, lambda spec: 0, {name: name for name in outside_names(recipe)})
    assert steps["report"].inputs["word-count/count_words-pretrain"] == "count_words-pretrain"
    assert STEPS["report"].input_kind("word-count/count_words-pretrain") == "word-count"


def test_resources_of_a_new_step_are_accepted_and_others_refused(recipe: Recipe) -> None:
    raw = recipe.model_dump(mode="json")
    given = Recipe.model_validate({**raw, "resources": {"count_words": {"cpus": 2}}})
    steps = plan(given, lambda spec: 0, {name: name for name in outside_names(given)})
    assert steps["count_words-pretrain"].resources.cpus == 2
    with pytest.raises(ValueError, match=r"unknown step 'count_letters'; steps are inventory, .*count_words"):
        Recipe.model_validate({**raw, "resources": {"count_letters": {"cpus": 2}}})


def test_the_error_of_until_lists_the_new_step(recipe: Recipe) -> None:
    steps = plan(recipe, lambda spec: 0, {name: name for name in outside_names(recipe)})
    with pytest.raises(ConfigError, match="count_words"):
        steps.until("nothing")
