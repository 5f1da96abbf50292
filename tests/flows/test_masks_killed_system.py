"""The flow process of a mask generation is killed while segment runs: the next run goes on, with the same bytes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.store import Artifact, ArtifactStore
from tests.flows.run.test_execution_system import OVER, ask, flow_process, wait_for
from tests.infra.local.test_stack_system import Home
from tests.pipeline.masks.fixtures_dataset import parts

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]
PARAMETERS = {"recipe": "miniature", "dataset": "pretrain"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A stack that is up."""
    found = Home(tmp_path_factory.mktemp("killed") / "home")
    result = found.agevlm("up")
    assert result.returncode == 0, result.stdout + result.stderr
    yield found
    found.agevlm("down")


def start(home: Home, **parameters: Any) -> str:
    deployment: Any = ask(home.prefect, "/deployments/name/mask-generation/pretrain")
    body = {"parameters": {**PARAMETERS, **parameters}}
    run: Any = ask(home.prefect, f"/deployments/{deployment['id']}/create_flow_run", body=body)
    return str(run["id"])


def end(home: Home, run: str) -> str:
    def state() -> str:
        found: Any = ask(home.prefect, f"/flow_runs/{run}")
        return str(found["state"]["type"])

    wait_for(lambda: state() in OVER)
    return state()


def segments(home: Home) -> list[Artifact]:
    store = ArtifactStore(str(home.path / "artifacts"))
    return sorted(store.artifacts(kind="segments"), key=lambda artifact: artifact.manifest.attempt)


def test_a_flow_that_is_killed_during_segment_goes_on_in_the_next_run(home: Home) -> None:
    seals = "artifacts/segments/pretrain/*/data-*/_seals/part-*.json"
    first = start(home)
    wait_for(lambda: any(Path(home.path).glob(seals)))
    os.kill(flow_process(first).pid, signal.SIGKILL)
    assert end(home, first) == "CRASHED"
    assert end(home, start(home)) == "COMPLETED"
    assert end(home, start(home, force=True)) == "COMPLETED"
    killed, undisturbed = segments(home)
    assert parts(killed) == parts(undisturbed)
    assert killed.manifest.counts == undisturbed.manifest.counts
    jobs: Any = ask(home.ray, "/api/jobs/")
    made = [job["submission_id"] for job in jobs if "-segment-pretrain-" in (job["submission_id"] or "")]
    assert len(made) == 2, "the second run joined the job of the first; only the forced one started another"
