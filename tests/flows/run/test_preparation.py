"""The final plan of a run: forced attempts, stale artifacts, and the data and weights that it needs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.run.preparation import Prepared, force_attempts, needed, planner, prepare
from flows.run.run_file import RunFile
from model.errors import ConfigError, DataError
from pipeline.artifacts.spec import StepSpec
from pipeline.artifacts.store import ArtifactStore
from pipeline.compute import hub
from pipeline.plan.costs.storage import expected_storage
from pipeline.plan.fingerprints import outside_names
from pipeline.plan.planner import Plan, plan
from pipeline.plan.recipe import Recipe, load_recipe
from pipeline.steps import runner
from pipeline.steps.runner import run_job
from tests.flows.fixtures_fake_ray import fake_settings
from tests.pipeline.plan.fixtures_toy_steps import STEP, toy_locations, toy_plan

CHAIN = {"a": ({}, ()), "b": ({}, ("a",)), "c": ({}, ("b",)), "free": ({}, ())}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setitem(runner.STEPS, "toy", STEP)
    return ArtifactStore(str(tmp_path))


def chain(attempts: Callable[[StepSpec], int]) -> Plan:
    return toy_plan(CHAIN, attempts)


def make(store: ArtifactStore, plan: Plan) -> Prepared:
    prepared = Prepared("tiny", plan, toy_locations(Path(store.root)), store, None)
    for step in plan:
        run_job(prepared.job(step))
    return prepared


def new_run(store: ArtifactStore, flow_run_id: str) -> RunFile:
    return RunFile.begin(store, flow_run_id, "tiny", None)


def test_forcing_a_step_gives_it_and_what_follows_new_ids(store: ArtifactStore) -> None:
    before = chain(store.attempt)
    make(store, before)
    after = force_attempts(store, chain, ["b"], new_run(store, "run-1"))
    assert after["a"].id == before["a"].id
    assert after["free"].id == before["free"].id
    assert after["b"].attempt == 1
    assert after["b"].id != before["b"].id
    assert after["c"].id != before["c"].id
    assert after["c"].attempt == 0
    assert store.get(before["b"].ref) is not None, "the old attempt stays"


def test_a_retry_of_the_same_flow_run_forces_nothing_twice(store: ArtifactStore) -> None:
    make(store, chain(store.attempt))
    first = force_attempts(store, chain, ["b", "c"], new_run(store, "run-1"))
    make(store, first)
    again = force_attempts(store, chain, ["b", "c"], new_run(store, "run-1"))
    assert [s.id for s in again] == [s.id for s in first]
    other = force_attempts(store, chain, ["b"], new_run(store, "run-2"))
    assert other["b"].attempt == 2


def test_a_retry_keeps_its_promise_if_the_process_died_before_the_store_knew(store: ArtifactStore) -> None:
    plan = chain(store.attempt)
    make(store, plan)
    new_run(store, "run-1").update(forced={plan["a"].spec.hash: 1})
    assert force_attempts(store, chain, ["a"], new_run(store, "run-1"))["a"].attempt == 1


def test_a_forced_attempt_that_was_interrupted_is_continued_by_the_next_run(store: ArtifactStore) -> None:
    make(store, chain(store.attempt))
    killed = force_attempts(store, chain, ["b"], new_run(store, "run-1"))
    after = force_attempts(store, chain, ["b"], new_run(store, "run-2"))
    assert after["b"].id == killed["b"].id


def test_forcing_an_unknown_step_is_refused_with_the_steps_there_are(store: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match=r"force = 'bb': no such step in this plan; steps are a, b, c, free"):
        force_attempts(store, chain, ["bb"], new_run(store, "run-1"))
    assert store.read_json("refs") is None


def test_only_what_the_cut_plan_uses_must_be_there(tmp_path: Path) -> None:
    absent = {"annotations": str(tmp_path / "a.jsonl"), "images": str(tmp_path / "i"), "kind": "cambrian"}
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["data"]["evaluation"]["source"] = absent
    raw["weights"]["text"] = str(tmp_path / "no-llama")
    recipe = Recipe.model_validate(raw)
    settings = fake_settings(tmp_path / "store")
    masks = planner(recipe, settings, "masks-pretrain")(lambda _: 0)
    assert [step.key for step in masks][-1] == "masks-pretrain"
    assert not set(outside_names(recipe)) & {
        v for step in masks for v in step.spec.params.values() if isinstance(v, str)
    }
    # Its ids are those of the whole plan.
    whole = load_recipe("miniature")
    assert masks["masks-pretrain"].id == planner(whole, settings)(lambda _: 0)["masks-pretrain"].id
    assert needed(whole, None) == set(outside_names(whole))
    with pytest.raises(DataError, match=r"data\.evaluation: annotation file .* does not exist"):
        planner(recipe, settings)
    with pytest.raises(ConfigError, match=r"weights\.text = '.*no-llama': there is no"):
        planner(recipe, settings, "stage1")


def test_a_run_looks_at_the_hub_weights_of_unfinished_steps(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at those that the plan's steps do not use, and at none once all is made: an old run needs no network."""
    name = f"hub:org/florence@{'c' * 40}"
    raw = load_recipe("miniature").model_dump(mode="json")
    recipe = Recipe.model_validate(raw | {"weights": {"florence": name, "text": name.replace("florence", "llama")}})
    outside = {n: n for n in outside_names(recipe)} | {"weights.florence": name, "weights.text": recipe.weights.text}

    def make_plan(attempts: Callable[[StepSpec], int]) -> Plan:
        return plan(recipe, attempts, outside).until("masks-pretrain")

    looked: list[tuple[str, str]] = []
    monkeypatch.setattr(hub, "look", lambda *given: looked.append(given))
    settings = fake_settings(Path(store.root))
    prepare(recipe, settings, make_plan, [], new_run(store, "run-1"))
    assert looked == [("florence", name)]
    monkeypatch.setattr(ArtifactStore, "get", lambda *_: "made")
    prepare(recipe, settings, make_plan, [], new_run(store, "run-2"))
    assert looked == [("florence", name)]


def test_two_runs_that_force_a_step_at_once_share_the_attempt(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run looks at the store before this one issues its attempt, and issues its own after it."""
    make(store, chain(store.attempt))
    reach = ArtifactStore.reach_attempt
    others: list[Plan] = []

    def interrupted(self: ArtifactStore, spec: StepSpec, attempt: int) -> None:
        monkeypatch.setattr(ArtifactStore, "reach_attempt", reach)
        others.append(force_attempts(store, chain, ["b"], new_run(store, "run-2")))
        reach(self, spec, attempt)

    monkeypatch.setattr(ArtifactStore, "reach_attempt", interrupted)
    mine = force_attempts(store, chain, ["b"], new_run(store, "run-1"))
    assert mine["b"].attempt == 1
    assert [step.id for step in mine] == [step.id for step in others[0]]


def test_a_job_knows_the_bytes_that_it_is_expected_to_write(tmp_path: Path) -> None:
    recipe = load_recipe("miniature")
    whole = plan(recipe, lambda _: 0, {name: name for name in outside_names(recipe)})
    found = expected_storage(recipe, whole, ArtifactStore(str(tmp_path)))
    assert found["stage1"] > 1 << 20
    assert found["pack-pretrain"] > 0
    assert "masks-pretrain" not in found  # not known
    prepared = Prepared("miniature", whole, toy_locations(tmp_path), ArtifactStore(str(tmp_path)), None, storage=found)
    assert prepared.job(whole["stage1"]).writes == found["stage1"]
    assert prepared.job(whole["masks-pretrain"]).writes is None
