"""The workers of one machine meet at a store that only this machine reaches."""

import inspect
import os
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from ray.train._internal import utils

from pipeline.training import rendezvous
from pipeline.training.rendezvous import MeetingGroup, listen, meeting_point


def test_the_store_of_the_process_group_listens_on_loopback() -> None:
    from torch.distributed import TCPStore

    port = listen("127.0.0.1")
    # As torch makes it for the first worker of a process group, and for the others.
    first = TCPStore("127.0.0.1", port, 2, is_master=True, wait_for_workers=False, multi_tenant=True)
    other = TCPStore("127.0.0.1", port, 2, is_master=False, wait_for_workers=False)
    first.set("key", "value")
    assert other.get("key") == b"value"
    found = [c for c in psutil.Process(os.getpid()).net_connections("tcp") if c.laddr.port == port]
    assert {c.laddr.ip.removeprefix("::ffff:") for c in found} == {"127.0.0.1"}
    assert sum(c.status == psutil.CONN_LISTEN for c in found) == 1
    rendezvous._stores.pop()


def test_on_several_machines_the_workers_meet_where_ray_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "get_address_and_port", lambda: ("10.0.0.5", 4321))
    assert meeting_point() == ("10.0.0.5", 4321)
    assert rendezvous._stores == []


def test_only_rays_choice_of_a_port_is_replaced() -> None:
    from ray.train.torch import config

    class Group:
        size = 2

        def __len__(self) -> int:
            return self.size

        def execute_single(self, rank: int, function: Callable[..., Any], *arguments: Any) -> Any:
            return rank, function, arguments

    group = MeetingGroup(Group())
    assert (len(group), group.size) == (2, 2)
    assert group.execute_single(0, config.get_address_and_port) == (0, meeting_point, ())
    assert group.execute_single(1, max, 3) == (1, max, (3,))
    call = "".join(inspect.getsource(config._TorchBackend.on_start).split())
    assert "worker_group.execute_single(0,get_address_and_port)" in call
