"""Jobs that make masks of one subset take turns."""

import threading
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from flows.run import launch, retries, step_run, turns
from flows.run.preparation import Prepared
from flows.run.ray_jobs import Job
from flows.run.run_file import read_run
from flows.run.step_run import StepRun
from flows.run.turns import TURN, ahead_of, turn_of
from pipeline.plan.job import JobSpec
from pipeline.plan.planner import Plan
from pipeline.steps import runner
from tests.flows.fixtures_fake_ray import FakeRay, publish_plainly
from tests.flows.run.test_step_run import Stage
from tests.pipeline.plan.fixtures_toy_steps import STEP, toy_plan


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The toy step takes turns: all its jobs share one."""
    monkeypatch.setitem(runner.STEPS, "toy", STEP)
    monkeypatch.setattr(retries, "PAUSES", ())
    monkeypatch.setattr(step_run, "TURN_SECONDS", 0.05)

    def toy_turn(job: JobSpec) -> dict[str, str]:
        return {TURN: "toys"}

    for module in (turns, launch):
        monkeypatch.setattr(module, "turn_of", toy_turn)
    return Stage(tmp_path, FakeRay())


def other_job(stage: Stage, **changes: str) -> Job:
    metadata = {TURN: "toys", "store": stage.runner._prepared.locations.root, "artifact": "another"}
    return Job("other-r1", "running", {**metadata, **changes}, started=1.0)


def test_only_segment_of_one_subset_takes_turns(tmp_path: Path) -> None:
    plain = Stage(tmp_path, FakeRay())
    assert turn_of(plain.runner._prepared.job(plain.plan["one"])) == {}


def test_a_job_waits_until_the_other_is_over(stage: Stage) -> None:
    stage.ray.on_submit = publish_plainly(stage.ray)
    other = other_job(stage)
    stage.ray.known[other.id] = other
    seen: list[int] = []

    def end() -> None:
        seen.append(len(stage.ray.known))
        stage.ray.end(other.id, "failed")

    threading.Timer(0.6, end).start()
    assert stage.follow().ending == "completed"
    assert seen == [1], "nothing was submitted while the other job lived"
    assert any("waiting for Ray job other-r1" in line for line in stage.log)


@pytest.mark.parametrize("changes", [{TURN: "other subset"}, {"store": "/another"}], ids=str)
def test_other_subsets_and_stores_do_not_wait(stage: Stage, changes: dict[str, str]) -> None:
    other = other_job(stage, **changes)
    stage.ray.known[other.id] = other
    assert ahead_of(stage.ray, stage.runner._prepared.job(stage.plan["one"])) == []


def test_a_job_of_the_same_artifact_is_joined_and_not_waited_for(stage: Stage) -> None:
    other = other_job(stage, artifact=stage.plan["one"].ref.id)
    stage.ray.known[other.id] = other
    assert ahead_of(stage.ray, stage.runner._prepared.job(stage.plan["one"])) == []


def test_a_cancel_while_waiting_starts_nothing(stage: Stage) -> None:
    other = other_job(stage)
    stage.ray.known[other.id] = other

    def cancel() -> None:
        stage.stop.cancelled = True
        stage.stop.set()

    threading.Timer(0.4, cancel).start()
    result = stage.follow()
    assert (result.ending, list(stage.ray.known)) == ("cancelled", [other.id])
    assert "before this step started" in result.message
    assert stage.ray.stopped == []


def test_of_two_that_start_at_once_the_later_gives_way(stage: Stage) -> None:
    other, publish = other_job(stage), publish_plainly(stage.ray)

    def work(job: str, spec: JobSpec) -> None:
        stage.ray.known[job] = replace(stage.ray.known[job], started=2.0)
        if other.id not in stage.ray.known:
            stage.ray.known[other.id] = other
            threading.Timer(0.4, lambda: stage.ray.end(other.id, "succeeded")).start()
            return
        publish(job, spec)

    stage.ray.on_submit = work
    assert stage.follow().ending == "completed"
    mine = [job for job in stage.ray.known if job != other.id]
    assert stage.ray.stopped == mine[:1]
    assert [job[-3:] for job in mine] == ["-r1", "-r2"]


def test_a_job_that_published_and_hangs_in_its_end_holds_nobody_up(stage: Stage, tmp_path: Path) -> None:
    folder = tmp_path / "toy" / "one" / "another"
    other = other_job(stage, artifact_folder=str(folder))
    stage.ray.known[other.id] = other
    stage.ray.on_submit = publish_plainly(stage.ray)

    def publish() -> None:
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")

    threading.Timer(0.3, publish).start()
    assert stage.follow().ending == "completed"
    assert stage.ray.known[other.id].alive
    assert any("waiting for Ray job other-r1" in line for line in stage.log)
    record = read_run(stage.store, "run-1")
    assert record is not None
    assert record.steps[0].message == "", "the run file no longer says that it waits"


def test_two_runs_with_two_subsets_each_end(tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each run holds one turn and waits for the other's: a job never waits while it has its turn.
    plans = [toy_plan({"x": ({"rows": n}, ()), "y": ({"rows": n}, ())}) for n in (3, 4)]

    def turn(job: JobSpec) -> dict[str, str]:
        return {TURN: job.key}

    for module in (turns, launch):
        monkeypatch.setattr(module, "turn_of", turn)
    publish = publish_plainly(stage.ray)
    stage.ray.on_submit = lambda job, spec: threading.Timer(0.2, publish, args=(job, spec)).start()
    old, results = stage.runner, []

    def follow(plan: Plan, key: str) -> None:
        prepared = Prepared("tiny", plan, old._prepared.locations, stage.store, None)
        step = StepRun(plan[key], prepared, stage.ray, old._launch, stage.run_file, stage.stop)
        results.append(step.follow(stage.log.append, lambda *_: None).ending)

    threads = [threading.Thread(target=follow, args=(plan, key)) for plan, key in product(plans, "xy")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == ["completed"] * 4
