"""The meeting point of the training workers of one machine: a store that only this machine reaches.

torch's own store listens on all interfaces and asks nobody for a secret, so a neighbour in the network could change
what the workers tell each other.
"""

import ipaddress
import socket
from typing import Any

_stores: list[Any] = []
"""The stores of this process. torch finds one again by its port as long as it lives."""


def meeting_point() -> tuple[str, int]:
    """The address and port where the workers meet, called in the first of them.

    On a cluster of several machines they are those that Ray Train chooses, and torch listens there itself.
    """
    from ray.train._internal.utils import get_address_and_port

    address, port = get_address_and_port()
    if not ipaddress.ip_address(address).is_loopback:
        return address, port
    return address, listen(address)


def listen(address: str) -> int:
    """Start a store that listens on this address only. Returns its port."""
    from torch._C._distributed_c10d import TCPStore  # mypy does not see the public name

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen()
        port = int(listener.getsockname()[1])
        # multi_tenant: when the process group asks for a store on this port, torch takes this one.
        _stores.append(
            TCPStore(
                address,
                port,
                is_master=True,
                wait_for_workers=False,
                multi_tenant=True,
                master_listen_fd=listener.detach(),
            )
        )
    return port


class MeetingGroup:
    """A worker group of Ray Train whose workers meet at `meeting_point`; all else is the group's own."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def __len__(self) -> int:
        return len(self._group)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def execute_single(self, rank: int, function: Any, *arguments: Any, **options: Any) -> Any:
        """As the group's own, but Ray's choice of address and port is replaced."""
        chosen = meeting_point if getattr(function, "__name__", "") == "get_address_and_port" else function
        return self._group.execute_single(rank, chosen, *arguments, **options)
