"""The final plan of a run: forced attempts, and what of the existing artifacts is stale."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flows.preparation import Prepared, existing, force_attempts, needed, planner, stale_steps
from flows.run_state import RunFile
from model.errors import ConfigError, DataError
from pipeline.artifacts.lineage import stale_reason
from pipeline.artifacts.spec import StepSpec
from pipeline.artifacts.store import ArtifactStore
from pipeline.fingerprints import outside_names
from pipeline.plan import Plan
from pipeline.recipe import Recipe, load_recipe
from pipeline.steps import context as steps_context
from pipeline.steps.context import run_job
from tests.flows import toy
from tests.flows.fakes import fake_settings
from tests.flows.toy import STEP, toy_plan, toy_site
from tests.flows.toy import work as toy_work

CHAIN = {"a": ({}, ()), "b": ({}, ("a",)), "c": ({}, ("b",)), "free": ({}, ())}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setitem(steps_context.STEPS, "toy", STEP)
    return ArtifactStore(str(tmp_path))


def chain(attempts: Callable[[StepSpec], int]) -> Plan:
    return toy_plan(CHAIN, attempts)


def make(store: ArtifactStore, plan: Plan) -> Prepared:
    prepared = Prepared("tiny", plan, toy_site(Path(store.root)), store, None)
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


def test_what_exists_and_is_sound_is_not_stale(store: ArtifactStore) -> None:
    prepared = make(store, chain(store.attempt))
    artifacts = existing(prepared)
    assert set(artifacts) == set(CHAIN)
    assert stale_steps(prepared.plan, artifacts) == {}


@pytest.mark.parametrize("remade", [False, True])
def test_what_was_made_from_a_lost_or_replaced_input_is_stale(
    store: ArtifactStore, remade: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = make(store, chain(store.attempt))
    shutil.rmtree(store.join(prepared.plan["a"].ref.path))
    if remade:
        monkeypatch.setattr(toy, "work", lambda context: replace(toy_work(context), statistics={"mean": 0.75}))
        run_job(prepared.job(prepared.plan["a"]))
    artifacts = existing(prepared)
    stale = stale_steps(prepared.plan, artifacts)
    assert set(stale) == {"b", "c"}
    assert ("was replaced" if remade else "is gone") in stale["b"]
    assert stale["b"] in stale["c"]
    by_lineage = {key for key, artifact in artifacts.items() if stale_reason(store, artifact)}
    assert by_lineage == set(stale), "the plan's rule and the lineage's are one"


def test_what_was_made_from_an_input_that_was_made_again_bit_by_bit_is_not_stale(store: ArtifactStore) -> None:
    prepared = make(store, chain(store.attempt))
    before = existing(prepared)["a"]
    shutil.rmtree(store.join(before.ref.path))
    again = run_job(prepared.job(prepared.plan["a"]))
    assert again.manifest.sha256 != before.manifest.sha256
    artifacts = existing(prepared)
    assert stale_steps(prepared.plan, artifacts) == {}
    assert [stale_reason(store, artifact) for artifact in artifacts.values()] == [""] * len(CHAIN)


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
