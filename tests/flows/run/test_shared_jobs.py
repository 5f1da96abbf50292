"""Jobs that several flow runs share: the jobs of a run, and a cancel that leaves the jobs of other runs alone."""

from pathlib import Path

import pytest

from flows.run.ray_jobs import Job
from flows.run.run_file import read_run
from flows.run.shared_jobs import jobs_of, stop_job
from model.errors import ConfigError
from tests.flows.fixtures_fake_ray import FakeRay, begin_run


def test_the_jobs_of_a_run_are_those_it_started_and_those_it_joined(tmp_path: Path) -> None:
    store, run = begin_run(tmp_path)
    run.step("a", state="completed", job="done")
    run.step("b", state="running", job="joined")
    ray = FakeRay()
    ray.known = {
        "done": Job("done", "succeeded", {"flow_run_id": "run-1"}),
        "joined": Job("joined", "running", {"flow_run_id": "run-0"}),
        "started": Job("started", "pending", {"flow_run_id": "run-1"}),
        "other": Job("other", "running", {"flow_run_id": "run-2"}),
    }
    assert jobs_of(ray, read_run(store, "run-1"), "run-1") == ["joined", "started"]


def test_a_run_without_a_file_still_has_its_jobs() -> None:
    ray = FakeRay()
    ray.known = {"mine": Job("mine", "running", {"flow_run_id": "run-1"})}
    assert jobs_of(ray, None, "run-1") == ["mine"]


def test_a_job_that_another_run_waits_for_is_not_stopped(tmp_path: Path) -> None:
    store, run = begin_run(tmp_path)
    _, other = begin_run(tmp_path, "run-2")
    ray, lines = FakeRay(), list[str]()
    ray.known = {"shared": Job("shared", "running", {"flow_run_id": "run-1"})}
    for each in (run, other):
        each.step("b", state="running", job="shared")
    run.update(state="cancelling")
    stop_job(ray, store, "shared", "run-1", lines.append)
    assert ray.stopped == []
    assert lines == ["Ray job shared goes on: flow run run-2 waits for it too"]
    # Both are cancelled at once: the one that looks last stops it. A run that crashed waits for nothing.
    other.update(state="cancelling")
    stop_job(ray, store, "shared", "run-2", lines.append)
    assert ray.stopped == ["shared"]


@pytest.mark.parametrize("content", ["", "{", '{"colour": "red"}'])
def test_a_damaged_file_of_another_run_hinders_no_cancel(tmp_path: Path, content: str) -> None:
    store, _ = begin_run(tmp_path)
    (tmp_path / "runs" / "run-0.json").write_text(content)
    ray = FakeRay()
    ray.known = {"mine": Job("mine", "running", {})}
    stop_job(ray, store, "mine", "run-1", lambda line: None)
    assert ray.stopped == ["mine"]
    with pytest.raises(ConfigError, match="run file of run-0"):
        read_run(store, "run-0")


def test_a_crashed_run_waits_for_nothing(tmp_path: Path) -> None:
    store, _ = begin_run(tmp_path)
    _, other = begin_run(tmp_path, "run-2")
    other.step("b", state="running", job="shared")
    other.close("crashed", "killed")
    ray = FakeRay()
    ray.known = {"shared": Job("shared", "running", {})}
    stop_job(ray, store, "shared", "run-1", lambda line: None)
    assert ray.stopped == ["shared"]


def test_a_run_whose_cancel_could_not_be_written_does_not_wait_for_itself(tmp_path: Path) -> None:
    store, run = begin_run(tmp_path)
    run.step("b", state="running", job="mine")  # a full disk: the run is not marked
    ray = FakeRay()
    ray.known = {"mine": Job("mine", "running", {})}
    stop_job(ray, store, "mine", "run-1", lambda line: None)
    assert ray.stopped == ["mine"]


@pytest.mark.parametrize("state", ["completed", "cancelled", "failed"])
def test_a_run_whose_step_is_over_does_not_wait_for_its_job(tmp_path: Path, state: str) -> None:
    store, _ = begin_run(tmp_path)
    _, other = begin_run(tmp_path, "run-2")
    other.step("b", state=state, job="shared")
    ray = FakeRay()
    ray.known = {"shared": Job("shared", "running", {})}
    stop_job(ray, store, "shared", "run-1", lambda line: None)
    assert ray.stopped == ["shared"]


def test_a_run_that_follows_another_job_does_not_wait_for_this_one(tmp_path: Path) -> None:
    store, _ = begin_run(tmp_path)
    _, other = begin_run(tmp_path, "run-2")
    other.step("b", state="running", job="another")
    ray = FakeRay()
    ray.known = {"mine": Job("mine", "running", {})}
    stop_job(ray, store, "mine", "run-1", lambda line: None)
    assert ray.stopped == ["mine"]


def test_a_joined_job_that_the_flows_own_process_could_not_stop_is_still_a_job_of_the_run(tmp_path: Path) -> None:
    store, run = begin_run(tmp_path)
    run.step("b", state="cancelled", job="joined")
    ray = FakeRay()
    ray.known = {"joined": Job("joined", "running", {"flow_run_id": "run-0"})}
    assert jobs_of(ray, read_run(store, "run-1"), "run-1") == ["joined"]
