"""The state of a plan: cached, to run or stale, each with its reason."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts.lineage import stale_reason
from pipeline.artifacts.spec import StepSpec
from pipeline.artifacts.store import ArtifactStore
from pipeline.artifacts.versions import library_versions
from pipeline.plan import status
from pipeline.plan.job import job_of
from pipeline.plan.planner import Plan
from pipeline.plan.status import differences, existing, stale_steps, verdicts
from pipeline.steps import runner
from pipeline.steps.runner import run_job
from tests.pipeline.plan import fixtures_toy_steps as toy
from tests.pipeline.plan.fixtures_toy_steps import STEP, toy_locations, toy_plan
from tests.pipeline.plan.fixtures_toy_steps import work as toy_work

CHAIN = {"a": ({}, ()), "b": ({}, ("a",)), "c": ({}, ("b",)), "free": ({}, ())}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setitem(runner.STEPS, "toy", STEP)
    return ArtifactStore(str(tmp_path))


def make(store: ArtifactStore) -> Plan:
    """The artifacts of CHAIN."""
    plan = toy_plan(CHAIN, store.attempt)
    for step in plan:
        run_job(job_of(step, plan, toy_locations(Path(store.root))))
    return plan


def test_what_exists_and_is_sound_is_not_stale(store: ArtifactStore) -> None:
    plan = make(store)
    artifacts = existing(plan, store)
    assert set(artifacts) == set(CHAIN)
    assert stale_steps(plan, artifacts) == {}


@pytest.mark.parametrize("remade", [False, True])
def test_what_was_made_from_a_lost_or_replaced_input_is_stale(
    store: ArtifactStore, remade: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make(store)
    shutil.rmtree(store.join(plan["a"].ref.path))
    if remade:
        monkeypatch.setattr(toy, "work", lambda context: replace(toy_work(context), statistics={"mean": 0.75}))
        run_job(job_of(plan["a"], plan, toy_locations(Path(store.root))))
    artifacts = existing(plan, store)
    stale = stale_steps(plan, artifacts)
    assert set(stale) == {"b", "c"}
    assert ("was replaced" if remade else "is gone") in stale["b"]
    assert stale["b"] in stale["c"]
    by_lineage = {key for key, artifact in artifacts.items() if stale_reason(store, artifact)}
    assert by_lineage == set(stale), "the plan's rule and the lineage's are one"


def test_what_was_made_from_an_input_that_was_made_again_bit_by_bit_is_not_stale(store: ArtifactStore) -> None:
    plan = make(store)
    before = existing(plan, store)["a"]
    shutil.rmtree(store.join(before.ref.path))
    again = run_job(job_of(plan["a"], plan, toy_locations(Path(store.root))))
    assert again.manifest.sha256 != before.manifest.sha256
    artifacts = existing(plan, store)
    assert stale_steps(plan, artifacts) == {}
    assert [stale_reason(store, artifact) for artifact in artifacts.values()] == [""] * len(CHAIN)


def test_a_plan_says_what_is_there_and_what_changed(store: ArtifactStore) -> None:
    make(store)
    same = {v.step.key: v for v in verdicts(toy_plan(CHAIN), store)}
    assert {v.condition for v in same.values()} == {"cached"}
    changed = {v.step.key: v for v in verdicts(toy_plan({**CHAIN, "b": ({"rows": 6}, ("a",))}), store)}
    assert changed["a"].condition == "cached"
    assert changed["b"].condition == changed["c"].condition == "to run"
    assert "rows 3 -> 6" in changed["b"].why
    assert changed["c"].why.endswith("input a")
    new = verdicts(toy_plan({"z": ({}, ())}), store)
    assert [v.why for v in new] == ["never made"]


def test_a_plan_says_what_was_made_with_other_versions_of_what_decides_it(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make(store)
    decided = Plan(replace(step, step=replace(step.step, libraries=("numpy",))) for step in plan)
    assert {v.versions for v in verdicts(decided, store)} == {""}
    installed = library_versions()
    monkeypatch.setattr(status, "library_versions", lambda: {**installed, "numpy": "99", "torch": "99"})
    assert {v.versions for v in verdicts(decided, store)} == {f"made with numpy {installed['numpy']}, now 99"}
    assert {v.condition for v in verdicts(decided, store)} == {"cached"}
    assert {v.versions for v in verdicts(plan, store)} == {""}, "a toy step has no library that decides its result"


def test_differences_are_named_with_both_values() -> None:
    old = StepSpec(step="s", revision=1, params={"gates": {"min": 0.5}, "same": 1}, inputs={"x": "1", "y": "2"})
    new = StepSpec(step="s", revision=2, params={"gates": {"min": None}, "same": 1, "new": "n"}, inputs={"x": "3"})
    assert differences(old, new) == [
        "gates.min 0.5 -> none",
        "new none -> n",
        "revision 1 -> 2",
        "input x",
        "input y",
    ]
