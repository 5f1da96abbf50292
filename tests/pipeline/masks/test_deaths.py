"""Errors of Ray: which of them say that a process died, and which that more than a process did."""

import pytest
from ray import exceptions

from pipeline.masks.deaths import is_death, is_wider


def actor_error(text: str = "The actor died.", raised: bool = False, preempted: bool = False) -> BaseException:
    error: BaseException = exceptions.RayActorError(error_msg=text, actor_init_failed=raised, preempted=preempted)
    return error


def caused_by(error: BaseException) -> BaseException:
    """As Ray Data passes errors on."""
    outer = ValueError("a task failed")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize("error", [actor_error(), exceptions.WorkerCrashedError(), exceptions.OutOfMemoryError("full")])
def test_a_process_that_died(error: BaseException) -> None:
    for seen in (error, caused_by(error)):
        assert is_death(seen)
        assert not is_wider(seen)


@pytest.mark.parametrize(
    "error",
    [
        actor_error("The actor died because its node has died. Node Id: 1"),
        actor_error(preempted=True),
        exceptions.NodeDiedError("gone"),
        exceptions.LocalRayletDiedError(),
    ],
)
def test_a_machine_that_died(error: BaseException) -> None:
    for seen in (error, caused_by(error)):
        assert is_death(seen)
        assert is_wider(seen)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a mistake"),
        actor_error("raised in its creation task\nKeyError: 'florence'", raised=True),
        actor_error("The actor died.\nmodel.errors.StepError: the disk is full"),
    ],
)
def test_an_error_of_the_work_is_no_death(error: BaseException) -> None:
    assert not is_death(error)
