"""The schedule: every step runs once, after its inputs, and never more at once than fits."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.run.schedule import Schedule, check_feasible, demand, dependents
from flows.run.settings import Totals
from model.errors import ConfigError
from pipeline.compute.resources import Pool, Resources
from pipeline.plan import planner
from pipeline.plan.recipe import load_recipe
from tests.pipeline.fixtures_finished_run import FINGERPRINTS
from tests.pipeline.plan.fixtures_toy_steps import toy_plan

HEAVY = Resources(cpus=1, workers=1, threads=2)


def test_two_light_steps_fill_a_laptop_and_a_heavy_one_does_alone() -> None:
    plan = toy_plan({"a": ({}, ()), "b": ({}, ()), "c": ({}, ()), "heavy": ({}, ("a",))}, resources={"heavy": HEAVY})
    totals = Totals(cpus=2)
    schedule = Schedule(plan)
    assert [s.key for s in schedule.ready(totals)] == ["a", "b"]
    schedule.start("a"), schedule.start("b")
    assert schedule.ready(totals) == []
    schedule.made("a")
    assert [s.key for s in schedule.ready(totals)] == ["c"]  # the heavy step does not fit beside b
    schedule.start("c")
    schedule.made("b"), schedule.made("c")
    assert [s.key for s in schedule.ready(totals)] == ["heavy"]


def test_the_step_that_most_steps_need_starts_first() -> None:
    toys = toy_plan(
        {"alone": ({}, ()), "short": ({}, ()), "end": ({}, ("short",)), "first": ({}, ()), "second": ({}, ("first",)),
         "third": ({}, ("second",)), "last": ({}, ("third", "end"))}
    )  # fmt: skip
    assert dependents(toys) == {"alone": 0, "short": 2, "end": 1, "first": 3, "second": 2, "third": 1, "last": 0}
    schedule = Schedule(toys)
    assert [s.key for s in schedule.ready(Totals(cpus=1))] == ["first"]
    assert [s.key for s in schedule.ready(Totals(cpus=3))] == ["first", "short", "alone"]


def test_training_does_not_wait_for_the_teachers() -> None:
    """On two cores stages 1 and 2, which the most steps need, run beside the teachers and not after them."""
    whole = planner.plan(load_recipe("miniature"), lambda _: 0, FINGERPRINTS)
    schedule = Schedule(whole)
    for key in ("inventory-pretrain", "inventory-instruct", "inventory-evaluation", "pack-pretrain", "pack-instruct",
                "subset-pretrain", "subset-instruct"):  # fmt: skip
        schedule.made(key)
    assert [s.key for s in schedule.ready(Totals(cpus=2))] == ["stage1", "segment-pretrain"]


def test_both_pools_of_a_step_count() -> None:
    pools = Resources(cpus=1, workers=2, second_pool=Pool(cpus=2, workers=1))
    (step,) = toy_plan({"a": ({}, ())}, resources={"a": pools})
    assert demand(step).cpus == 4
    with pytest.raises(ConfigError, match="asks for 4 CPUs"):
        check_feasible(toy_plan({"a": ({}, ())}, resources={"a": pools}), Totals(cpus=3))


def test_a_step_larger_than_the_cluster_counts_as_all_of_it() -> None:
    plan = toy_plan({"big": ({}, ()), "small": ({}, ())}, resources={"big": Resources(cpus=1, workers=1, threads=16)})
    schedule = Schedule(plan)
    assert [s.key for s in schedule.ready(Totals(cpus=2))] == ["big"]


@pytest.mark.parametrize(("threads", "cpus"), [(1, 8), (2, 8), (3, 12)])
def test_a_step_keeps_its_workers_cpus_or_threads_busy(threads: int, cpus: float) -> None:
    given = Resources(cpus=2, gpus=1, workers=4, threads=threads)
    (step,) = toy_plan({"a": ({}, ())}, resources={"a": given})
    assert (demand(step).cpus, demand(step).gpus) == (cpus, 4)


def test_three_steps_of_one_thread_share_two_cpus_if_they_ask_for_less_than_one() -> None:
    shared = Resources(cpus=0.6, workers=1, threads=1)
    plan = toy_plan({name: ({}, ()) for name in "abcd"}, resources=dict.fromkeys("abcd", shared))
    assert [s.key for s in Schedule(plan).ready(Totals(cpus=2))] == ["a", "b", "c"]


def test_what_follows_a_failure_is_skipped_and_the_rest_goes_on() -> None:
    plan = toy_plan({"a": ({}, ()), "b": ({}, ("a",)), "c": ({}, ("b",)), "free": ({}, ()), "d": ({}, ("c", "free"))})
    schedule = Schedule(plan)
    schedule.start("a")
    assert [s.key for s in schedule.failed("a")] == ["b", "c", "d"]
    assert schedule.broken == {"a": "a", "b": "a", "c": "a", "d": "a"}
    assert [s.key for s in schedule.ready(Totals(cpus=1))] == ["free"]
    schedule.made("free")
    assert schedule.finished


@pytest.mark.parametrize(
    ("resources", "totals", "words"),
    [
        (Resources(cpus=1, gpus=1, workers=8), Totals(cpus=64, gpus=4), "asks for 8 GPUs"),
        (Resources(cpus=4, workers=2), Totals(cpus=2), "asks for 8 CPUs"),
    ],
)
def test_a_step_that_can_never_run_is_refused_with_a_remedy(resources: Resources, totals: Totals, words: str) -> None:
    plan = toy_plan({"a": ({}, ())}, resources={"a": resources})
    with pytest.raises(ConfigError, match=words) as caught:
        check_feasible(plan, totals)
    assert "resources.toy" in str(caught.value)


@given(st.integers(0, 2**32 - 1))
def test_any_order_of_endings_runs_each_step_once_after_its_inputs_and_within_the_cluster(seed: int) -> None:
    rng = random.Random(seed)
    shape: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {}
    resources = {}
    for number in range(rng.randint(1, 12)):
        key = f"s{number}"
        shape[key] = ({}, tuple(rng.sample(sorted(shape), k=min(len(shape), rng.randint(0, 3)))))
        resources[key] = Resources(cpus=rng.choice([0.5, 1, 2]), gpus=rng.choice([0, 0, 1]), workers=rng.randint(1, 3))
    plan = toy_plan(shape, resources=resources)
    totals = Totals(cpus=rng.randint(1, 8), gpus=rng.randint(0, 2))
    schedule, started, ended, bad = Schedule(plan), [], set(), set()
    while not schedule.finished:
        for step in schedule.ready(totals):
            assert set(step.inputs.values()) <= ended
            schedule.start(step.key)
            started.append(step.key)
        busy = [plan[key] for key in schedule.running]
        assert busy, "something must always run until all is finished"
        assert sum(min(demand(s).cpus, totals.cpus) for s in busy) <= totals.cpus
        assert sum(min(demand(s).gpus, totals.gpus) for s in busy) <= totals.gpus
        key = rng.choice(sorted(schedule.running))
        if rng.random() < 0.2:
            bad |= {key} | {s.key for s in schedule.failed(key)}
        else:
            schedule.made(key)
            ended.add(key)
    assert len(started) == len(set(started))
    assert ended | bad == set(shape)
    assert not ended & bad
