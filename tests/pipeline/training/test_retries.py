"""A failure counts only if nothing was saved since the one before, and only some are worth another run."""

from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from model.errors import DataError, StepError, TransientError
from pipeline.artifacts.shards import Shards
from pipeline.artifacts.store import ArtifactStore
from pipeline.training.checkpoints.names import name_of
from pipeline.training.retries import MAX_FAILURES, Retries, failure_of


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


def failed(*failures: Exception) -> WorkerGroupError:
    """The error of Ray Train for failures of workers 1, 2, ..."""
    return WorkerGroupError("see below", dict(enumerate(failures, 1)))


def test_an_agevlm_error_of_a_worker_is_raised_unchanged() -> None:
    own = DataError("pack row s1: its image cannot be decoded")
    wrapped = RuntimeError("task failed")
    wrapped.cause = own  # type: ignore[attr-defined]
    assert failure_of("stage1", failed(RuntimeError("peer"), wrapped)) is own


LOST = RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(
    ("failures", "kind", "text"),
    [
        # errors of the code: another run would end at the same line
        ([TypeError("forward() got 'x'")], StepError, "on worker 1: TypeError: forward() got 'x'"),
        ([KeyError("loss")], StepError, "on worker 1: KeyError: 'loss'"),
        ([LOST, ZeroDivisionError("division by zero")], StepError, "on worker 2: ZeroDivisionError"),
        ([NotImplementedError("no kernel for the CPU")], StepError, "on worker 1: NotImplementedError"),
        ([ModuleNotFoundError("No module named 'flash_attn'")], StepError, "on worker 1: ModuleNotFoundError"),
        # lost processes, machines and connections, short memory
        ([LOST], TransientError, "on worker 1: RuntimeError: Connection closed by peer"),
        ([LOST, ActorDiedError()], TransientError, "on worker 1: RuntimeError"),
        ([ValueError("process group not initialized"), NodeDiedError("gone")], TransientError, "on worker 1: ValueErr"),
        ([OSError(5, "Input/output error")], TransientError, "on worker 1: OSError"),
        ([MemoryError()], TransientError, "on worker 1: MemoryError"),
    ],
)
def test_only_failures_that_may_pass_are_worth_another_run(
    failures: list[Exception], kind: type[StepError], text: str
) -> None:
    error = failure_of("stage1", failed(*failures))
    assert type(error) is kind
    assert str(error).startswith(f"stage1: training failed {text}")


def test_a_failure_outside_the_workers_is_worth_another_run() -> None:
    error = failure_of("stage1", ControllerError(RuntimeError("the controller died")))
    assert type(error) is TransientError
    assert str(error).startswith("stage1: training failed: ControllerError")
