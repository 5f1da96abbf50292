"""The torch backend of a stage: torch is loaded in the workers only, and one worker needs no process group."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.compute.threads import wait_briefly
from pipeline.training import backend
from pipeline.training.backend import TorchProcessGroup, TorchWorkers
from pipeline.training.rendezvous import MeetingGroup


class Group:
    """A worker group that notes what it is asked to run."""

    def __init__(self, size: int) -> None:
        self.size, self.calls = size, list[Any]()

    def __len__(self) -> int:
        return self.size

    def execute(self, function: Callable[..., Any]) -> None:
        self.calls.append(function)


class RaysConfig:
    """Stands in for Ray's TorchConfig and its backend."""

    def backend_cls(self) -> "RaysConfig":
        return self

    def on_start(self, group: MeetingGroup, config: Any) -> None:
        group.calls.append("start")

    def on_shutdown(self, group: Group, config: Any) -> None:
        group.calls.append("shutdown")


@pytest.mark.parametrize(("size", "rays"), [(1, []), (2, ["start", "shutdown"])])
def test_several_workers_are_connected_by_rays_backend(
    size: int, rays: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_torch_config", RaysConfig)
    group = Group(size)
    TorchProcessGroup().on_start(group, TorchWorkers())
    TorchProcessGroup().on_shutdown(group, TorchWorkers())
    assert group.calls == [wait_briefly, *rays]  # OpenMP's setting first: Ray's backend loads torch


def test_neither_the_driver_nor_the_controller_loads_torch() -> None:
    program = """
import pickle, sys
import pipeline.steps.train
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from pipeline.training.backend import TorchWorkers
config = pickle.loads(pickle.dumps(TorchWorkers()))
config.backend_cls().on_start, config.train_func_context
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
