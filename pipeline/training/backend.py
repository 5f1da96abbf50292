"""Ray Train's torch backend, imported only where torch is needed: in the workers, and in the controller of several.

`TorchTrainer` imports torch in the driver and in the controller as well, one after the other. On a laptop that is a
third of the time until a stage's first step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.train.backend import Backend, BackendConfig

from pipeline.compute.collection import collection_paused
from pipeline.compute.threads import wait_briefly
from pipeline.training.rendezvous import MeetingGroup


class TorchProcessGroup(Backend):  # type: ignore[misc]
    """Connects the workers as `ray.train.torch.TorchConfig` does. A single worker needs no process group."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Set up torch.distributed on every worker."""
        worker_group.execute(wait_briefly)  # first: the next lines load torch
        if len(worker_group) > 1:
            config = _torch_config()
            config.backend_cls().on_start(MeetingGroup(worker_group), config)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Close the process group, and free the memory that torch caches on an accelerator."""
        if len(worker_group) > 1:
            config = _torch_config()
            config.backend_cls().on_shutdown(worker_group, config)


class TorchWorkers(BackendConfig):  # type: ignore[misc]
    """The backend configuration of a stage, for `ray.train.DataParallelTrainer`."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The class whose methods the controller calls."""
        return TorchProcessGroup

    @property
    def train_func_context(self) -> Any:
        """The context in which a worker calls the training function."""
        return own_device


@contextmanager
def own_device() -> Iterator[None]:
    """Make the worker's GPU the current one, if it has one."""
    with _torch_config().train_func_context():
        yield


def _torch_config() -> Any:
    with collection_paused():
        from ray.train.torch import TorchConfig

    return TorchConfig()
