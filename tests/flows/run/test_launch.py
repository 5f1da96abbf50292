"""Launching a step as a Ray job: its id, command and SPEC.json, joining a living job, a new try after a dead one."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flows.run.launch import Launch, entrypoint, join_or_submit
from flows.run.preparation import Prepared
from flows.run.ray_jobs import Job
from model.errors import StepError
from pipeline.artifacts.manifest import Origin
from pipeline.artifacts.store import ArtifactStore
from pipeline.plan.job import JobSpec, read_job
from tests.flows.fixtures_fake_ray import FakeRay, fake_settings
from tests.pipeline.plan.fixtures_toy_steps import toy_locations, toy_plan


def job_at(root: Path, flow_run: str = "run-1") -> tuple[JobSpec, Launch]:
    plan = toy_plan({"one": ({}, ())})
    prepared = Prepared("tiny", plan, toy_locations(root), ArtifactStore(str(root)), "c0ffee")
    return prepared.job(plan["one"]), Launch("tiny", flow_run, fake_settings(root))


def test_a_job_is_named_after_recipe_step_artifact_and_try(tmp_path: Path) -> None:
    ray = FakeRay()
    job, launch = job_at(tmp_path)
    submission, joined = join_or_submit(ray, launch, job)
    assert submission == f"tiny-one-{job.ref.id[:12]}-r1"
    assert not joined
    assert ray.known[submission].metadata == {
        "job_name": f"tiny one attempt 0 {job.ref.id[:12]} try 1",
        "artifact": job.ref.id,
        "store": str(tmp_path),
        "step": "one",
        "kind": "toy",
        "artifact_folder": f"{tmp_path}/toy/one/{job.ref.id}",
        "artifact_command": f"agevlm show {job.ref.id[:12]}",
        "flow_run_id": "run-1",
        "job_page": f"http://ray.test/#/jobs/{submission}",
    }


def test_a_job_carries_the_links_of_its_flow_run(tmp_path: Path) -> None:
    ray = FakeRay()
    job, launch = job_at(tmp_path)
    run = Origin(
        flow_run_id="run-1",
        flow_run="brave-owl",
        deployment="agevlm/full-recipe",
        flow_run_page="http://prefect.test/runs/flow-run/run-1",
    )
    submission, _ = join_or_submit(ray, replace(launch, origin=run), job)
    links = {"flow_run_id", "flow_run", "deployment", "flow_run_page"}
    assert {name: ray.known[submission].metadata[name] for name in links} == run.model_dump(exclude_none=True)
    spec = read_job(ray.commands[submission].split()[-1])
    assert spec.origin == run.model_copy(update={"job_page": f"http://ray.test/#/jobs/{submission}"})
    printed = "\n".join(spec.links)
    for part in (str(job.ref), f"agevlm show {job.ref.id[:12]}", "brave-owl  http://prefect.test/runs/flow-run/run-1"):
        assert part in printed
    assert printed.endswith(f"http://ray.test/#/jobs/{submission}")


def test_a_job_reads_its_spec_from_the_store(tmp_path: Path) -> None:
    ray = FakeRay()
    job, launch = job_at(tmp_path)
    passed_on = {"RAY_AUTH_MODE": "token"}
    launch = replace(launch, settings=launch.settings.model_copy(update={"passed_on": passed_on}))
    submission, _ = join_or_submit(ray, launch, job)
    spec = tmp_path / "jobs" / f"{submission}.json"
    assert ray.commands[submission].endswith(f" -u -m pipeline run {spec}")
    known = read_job(str(spec))
    assert known.origin == Origin(flow_run_id="run-1", job_page=f"http://ray.test/#/jobs/{submission}")
    facts = {"submission_id": submission, "environment": passed_on, "recipe": launch.recipe, "origin": known.origin}
    assert known == job.model_copy(update={**facts, "submitted": known.submitted})
    assert known.submitted == pytest.approx(time.time(), abs=60)


def test_a_job_for_a_remote_store_is_given_a_url(tmp_path: Path) -> None:
    ray = FakeRay()
    job, launch = job_at(tmp_path)
    remote = job.model_copy(update={"locations": job.locations.model_copy(update={"root": "memory://bucket/store/"})})
    submission, _ = join_or_submit(ray, launch, remote)
    location = f"memory://bucket/store/jobs/{submission}.json"
    assert ray.commands[submission].split()[-1] == location
    assert read_job(location).submission_id == submission


def test_the_command_starts_the_flows_interpreter_in_the_projects_folder(tmp_path: Path) -> None:
    repo = tmp_path / "the project"
    python = repo / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$0 in $PWD: $*"\n')
    python.chmod(0o755)
    _, launch = job_at(tmp_path)
    launch = replace(launch, settings=launch.settings.model_copy(update={"repo": repo}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        inside = entrypoint(launch, "/store/a b.json")
        patch.setattr(sys, "executable", "/usr/bin/python3")
        outside = entrypoint(launch, "s3://store/jobs/x.json")
    answer = subprocess.run(inside, shell=True, capture_output=True, text=True, check=True, cwd="/").stdout
    assert answer == f"venv/bin/python in {repo}: -u -m pipeline run /store/a b.json\n"
    assert outside.endswith("&& exec /usr/bin/python3 -u -m pipeline run s3://store/jobs/x.json")


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
    """A Ray on which another flow run submits the same job a moment earlier."""

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
    """A Ray that lists no job, yet answers that each id is taken."""

    def submit(self, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> bool:
        return False


def test_a_job_that_can_never_be_started_ends_in_a_message(tmp_path: Path) -> None:
    job, launch = job_at(tmp_path)
    with pytest.raises(StepError, match="keep starting jobs named tiny-one-"):
        join_or_submit(Refusing(), launch, job)
