"""The hooks that Prefect runs in another process when a flow run is cancelled or its process dies."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.run import cancellation
from flows.run.cancellation import close_run_file
from flows.run.ray_jobs import Job
from flows.run.run_file import read_run
from tests.flows.fixtures_fake_ray import FakeRay, begin_run


def test_closing_gives_a_dead_run_its_state_once(tmp_path: Path) -> None:
    store, run = begin_run(tmp_path)
    run.step("a", state="completed")
    run.step("b", state="running")
    close_run_file(store, "run-1", "crashed", "killed")
    close_run_file(store, "run-1", "cancelled", "later")
    record = read_run(store, "run-1")
    assert record is not None
    assert (record.state, record.message) == ("crashed", "killed")
    assert [step.state for step in record.steps] == ["completed", "crashed", "pending"]


def test_the_hooks_take_prefects_keywords_and_need_nothing_but_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = begin_run(tmp_path)
    ray = FakeRay()
    ray.known = {"mine": Job("mine", "running", {"flow_run_id": "run-1"})}
    monkeypatch.setattr(cancellation, "RayJobs", lambda url: ray)
    looks: list[float] = []

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:  # its submission was under way when the process was killed
            ray.known["late-submission"] = Job("late-submission", "running", {"flow_run_id": "run-1"})

    monkeypatch.setattr(cancellation.time, "sleep", wait)
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path))
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AGEVLM_RAY_JOBS_URL", "http://ray.test")
    cancellation.stop_jobs(flow=None, flow_run=SimpleNamespace(id="run-1"), state=None)  # type: ignore[arg-type]
    assert ray.stopped == ["mine", "late-submission"]
    record = read_run(store, "run-1")
    assert record is not None
    assert record.state == "cancelled"
    # Also where the run file is damaged: Ray knows which jobs the run started.
    (tmp_path / "runs" / "run-1.json").write_text("")
    ray.known["late"] = Job("late", "running", {"flow_run_id": "run-1"})
    cancellation.stop_jobs(flow=None, flow_run=SimpleNamespace(id="run-1"), state=None)  # type: ignore[arg-type]
    assert ray.stopped == ["mine", "late-submission", "late"]
