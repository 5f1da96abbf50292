"""A failure counts only if nothing was saved since the one before."""

from pathlib import Path

import pytest

from model.errors import StepError
from pipeline.artifacts.shards import Shards
from pipeline.artifacts.store import ArtifactStore
from pipeline.training.checkpoints.names import name_of
from pipeline.training.retries import MAX_FAILURES, Retries


@pytest.fixture
def checkpoints(tmp_path: Path) -> Shards:
    return Shards(ArtifactStore(str(tmp_path)), "work/id/checkpoints-0", "inputs")


def save(checkpoints: Shards, step: int) -> None:
    checkpoints.commit(name_of(step), {f"{name_of(step)}/state.json": b"{}"}, step)


def test_failures_after_progress_have_no_limit(checkpoints: Shards) -> None:
    retries = Retries("stage1", checkpoints)
    for step in range(1, 12):
        save(checkpoints, step)
        retries.failed(StepError("a worker was preempted"))


def test_failures_at_the_same_step_end_the_stage(checkpoints: Shards) -> None:
    retries = Retries("stage1", checkpoints)
    save(checkpoints, 512)
    for _ in range(MAX_FAILURES):
        retries.failed(StepError("killed"))
    with pytest.raises(
        StepError, match=r"stage1: 3 failures in a row after step 512, with no newer.*: killed; see the job"
    ):
        retries.failed(StepError("killed"))


def test_checkpoints_of_an_earlier_run_are_no_progress(checkpoints: Shards) -> None:
    save(checkpoints, 8)
    retries = Retries("stage1", checkpoints)
    for _ in range(MAX_FAILURES):
        retries.failed(StepError("killed"))
    with pytest.raises(StepError, match="after step 8"):
        retries.failed(StepError("killed"))
