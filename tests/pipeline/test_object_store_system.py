"""The miniature recipe's masks on an object store: each step has its own scratch folder, and one step is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.artifacts.manifest import ASIDE
from pipeline.artifacts.paths import PROJECT
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.plan.fingerprints import Fingerprints, outside_names
from pipeline.plan.job import job_of
from pipeline.plan.locations import locations_of
from pipeline.plan.planner import Plan, mask_recipe, plan
from pipeline.plan.recipe import load_recipe
from tests.fixtures_s3 import BUCKET, s3_in_environment

TARGET = "masks-pretrain"


def write_jobs(root: str, scratch: Path) -> tuple[Plan, dict[str, str]]:
    """The plan up to TARGET, and each step's SPEC.json in the store by key. Each step has its own scratch folder."""
    recipe = mask_recipe(load_recipe("miniature"), "pretrain")
    fingerprints = Fingerprints(scratch / "plan").recipe(recipe, set(outside_names(recipe)))
    store = ArtifactStore(root)
    steps = plan(recipe, store.attempt, fingerprints).until(TARGET)
    for step in steps:
        job = job_of(step, steps, locations_of(recipe, root, str(scratch / step.key)))
        store.write_json(f"jobs/{step.key}.json", job.model_dump(mode="json"))
    return steps, {step.key: f"{root}/jobs/{step.key}.json" for step in steps}


def start(location: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a step with the command of a Ray job, but with a local Ray session."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", location],
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a step and all processes that it started, with its local Ray session."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    for child in children:
        child.kill()
    process.communicate()


def content(store: ArtifactStore, steps: Plan) -> dict[str, tuple[str, dict[str, str]]]:
    """Id and checksums of each artifact, of all that is its content."""
    made: dict[str, Artifact] = {step.key: store.require(step.ref) for step in steps}
    files = {key: [entry for entry in a.manifest.files if not entry.path.startswith(ASIDE)] for key, a in made.items()}
    return {key: (a.ref.id, {entry.path: entry.sha256 for entry in files[key]}) for key, a in made.items()}


@pytest.mark.system
@pytest.mark.timeout(1200)
def test_masks_are_made_on_an_object_store_and_equal_those_on_a_disk(tmp_path: Path) -> None:
    with s3_in_environment() as server:
        root = f"s3://{BUCKET}/store"
        steps, jobs = write_jobs(root, tmp_path / "remote")
        store = ArtifactStore(root)
        for step in steps:
            if step.step.name == "segment":
                killed = start(jobs[step.key], {})
                deadline = time.monotonic() + 300
                while len(store.fs.glob(store.join(step.ref.path, "data-*", "_seals", "*.json"))) < 2:
                    assert killed.poll() is None, killed.communicate()[0]
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
                kill_group(killed)
                assert store.get(step.ref) is None
                # Another machine continues: it has none of the first one's local files.
                (tmp_path / "remote" / step.key).rename(tmp_path / "lost")
                server.refuse(5)
            finish(start(jobs[step.key], {}))
        assert server.refused > 0
        remote = content(store, steps)
        assert store.require(steps[TARGET].ref).verify() == []
        truth = store.require(steps[TARGET].ref).manifest.statistics["truth"]

        disk = str(tmp_path / "store")
        steps, jobs = write_jobs(disk, tmp_path / "local")
        for step in steps:
            finish(start(jobs[step.key], {}))
        local = ArtifactStore(disk)
        assert content(local, steps) == remote
        assert local.require(steps[TARGET].ref).manifest.statistics["truth"] == truth
        latest = Path(disk) / "masks" / "pretrain" / "latest"
        assert latest.resolve() == Path(local.require(steps[TARGET].ref).path()).resolve()
