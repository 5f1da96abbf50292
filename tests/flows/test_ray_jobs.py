"""One step, one Ray job: its id, joining a living one, a new try after a dead one, and what the job is given."""

import shlex
from pathlib import Path

import pytest

from flows.preparation import Prepared
from flows.ray_jobs import Job, Launch, join_or_submit
from model.errors import StepError
from pipeline.artifacts.store import ArtifactStore
from pipeline.job import JobSpec, read_job
from tests.flows.fakes import FakeRay, fake_settings
from tests.flows.toy import toy_plan, toy_site


def job_at(root: Path, flow_run: str = "run-1") -> tuple[JobSpec, Launch]:
    plan = toy_plan({"one": ({}, ())})
    prepared = Prepared("tiny", plan, toy_site(root), ArtifactStore(str(root)), "c0ffee")
    return prepared.job(plan["one"]), Launch("tiny", flow_run, fake_settings(root))


def test_a_job_is_named_after_recipe_step_artifact_and_try(tmp_path: Path) -> None:
    ray = FakeRay()
    job, launch = job_at(tmp_path)
    submission, joined = join_or_submit(ray, launch, job)
    assert submission == f"tiny-one-{job.ref.id[:12]}-r1"
    assert not joined
    words = shlex.split(ray.commands[submission])
    assert words[0] == "env"
    assert {"OMP_NUM_THREADS=1", f"AGEVLM_SUBMISSION_ID={submission}", f"PYTHONPATH={Path.cwd()}"} <= set(words)
    assert words[-4:-1] == ["-m", "pipeline", "run"]
    assert read_job(Path(words[-1])) == job
    assert ray.known[submission].metadata == {
        "artifact": job.ref.id,
        "store": str(tmp_path),
        "step": "one",
        "kind": "toy",
        "flow_run_id": "run-1",
    }


def test_a_living_job_is_joined_whoever_started_it(tmp_path: Path) -> None:
    ray = FakeRay()
    job, launch = job_at(tmp_path)
    first, _ = join_or_submit(ray, launch, job)
    again, joined = join_or_submit(ray, job_at(tmp_path, "run-2")[1], job)
    assert (again, joined) == (first, True)
    assert len(ray.known) == 1


def test_a_job_of_another_recipe_that_makes_the_same_artifact_is_joined(tmp_path: Path) -> None:
    ray = FakeRay()
    job, launch = job_at(tmp_path)
    first, _ = join_or_submit(ray, Launch("copy-of-tiny", "run-0", launch.settings), job)
    assert join_or_submit(ray, launch, job) == (first, True)


@pytest.mark.parametrize("ending", ["failed", "stopped", "succeeded"])
def test_after_a_job_that_left_no_artifact_comes_a_new_try(tmp_path: Path, ending: str) -> None:
    ray = FakeRay()
    job, launch = job_at(tmp_path)
    first, _ = join_or_submit(ray, launch, job)
    ray.end(first, ending)  # type: ignore[arg-type]
    second, joined = join_or_submit(ray, launch, job)
    assert (second, joined) == (first.removesuffix("1") + "2", False)


def test_a_job_for_another_store_is_neither_joined_nor_hindered(tmp_path: Path) -> None:
    ray = FakeRay()
    there, launch_there = job_at(tmp_path / "there")
    here, launch_here = job_at(tmp_path / "here")
    assert there.ref.id == here.ref.id
    first, _ = join_or_submit(ray, launch_there, there)
    second, joined = join_or_submit(ray, launch_here, here)
    assert not joined
    assert second != first


class Racing(FakeRay):
    """Another flow run submits the same job just before ours."""

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        self.known.setdefault(submission_id, Job(submission_id, "running", {**metadata, "flow_run_id": "other"}))
        return super().submit(submission_id, entrypoint, metadata)


def test_the_loser_of_a_race_joins_the_winner(tmp_path: Path) -> None:
    ray = Racing()
    job, launch = job_at(tmp_path)
    submission, joined = join_or_submit(ray, launch, job)
    assert joined
    assert ray.known[submission].metadata["flow_run_id"] == "other"


class Refusing(FakeRay):
    """Never lists a job, yet says that each id is taken."""

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        return False


def test_a_job_that_can_never_be_started_ends_in_a_message(tmp_path: Path) -> None:
    job, launch = job_at(tmp_path)
    with pytest.raises(StepError, match="keep starting jobs named tiny-one-"):
        join_or_submit(Refusing(), launch, job)
