"""Trials: the death of a trial's process counts, the death of a machine or of Ray itself does not."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray import exceptions

from model.errors import TransientError
from pipeline.compute.resources import Resources
from pipeline.masks import probing
from pipeline.masks.probing import RayProber
from pipeline.schemas import QUERIES

CRASHED = exceptions.WorkerCrashedError()


class FakeRay:
    """Ray whose tasks end with these errors, one after the other; None is success."""

    def __init__(self, *outcomes: BaseException | None) -> None:
        self.outcomes, self.asked = list(outcomes), list[str]()

    def remote(self, **options: Any) -> Any:
        return lambda work: SimpleNamespace(remote=lambda *arguments: work.__name__)

    def get(self, name: str, timeout: float | None = None) -> None:
        self.asked.append(name)
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome


def survives(monkeypatch: pytest.MonkeyPatch, *outcomes: BaseException | None) -> bool:
    fake = FakeRay(*outcomes)
    monkeypatch.setattr(probing, "ray", fake)
    work: Any = SimpleNamespace(images=None)
    try:
        return RayProber(work, Resources(cpus=1, workers=1, threads=1)).survives("decode", 0, QUERIES.empty_table())
    finally:
        assert fake.outcomes == [], fake.asked


def test_a_process_that_dies_alone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not survives(monkeypatch, CRASHED, None)


def test_work_that_succeeds_or_raises_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    assert survives(monkeypatch, None)
    assert survives(monkeypatch, ValueError("a bad picture"))


@pytest.mark.parametrize("control", [CRASHED, exceptions.GetTimeoutError("late"), exceptions.RaySystemError("gone")])
def test_a_death_counts_only_if_ray_still_works(monkeypatch: pytest.MonkeyPatch, control: Exception) -> None:
    with pytest.raises(TransientError, match="a machine or Ray died"):
        survives(monkeypatch, CRASHED, control)


@pytest.mark.parametrize(
    "death",
    [
        exceptions.LocalRayletDiedError(),
        exceptions.NodeDiedError("gone"),
        exceptions.RaySystemError("gone"),
        exceptions.RayActorError(error_msg="The actor died because its node has died. Node Id: 1"),
    ],
)
def test_the_death_of_a_machine_is_no_death_of_a_trial(monkeypatch: pytest.MonkeyPatch, death: Exception) -> None:
    with pytest.raises(TransientError, match="a machine or Ray died"):
        survives(monkeypatch, death)
