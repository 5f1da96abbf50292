"""The table of roles: the order of start and end, and ports."""

import socket

from infra.local.roles.table import ENDING, ROLES
from infra.local.stack_file import StackState


def test_each_role_is_ended() -> None:
    assert sorted(ENDING) == sorted(ROLES)
    assert all(name == role.name for name, role in ROLES.items())


def test_recorded_ports_are_kept_while_they_are_free() -> None:
    ray = ROLES["ray"]
    state = ray.with_ports(StackState(id="x"))
    assert set(state.ports) == set(ray.ports)
    assert ray.with_ports(state) is state
    with socket.create_server(("127.0.0.1", state.ports["ray_gcs"])):
        other = ray.with_ports(state)
    assert other.ports["ray_gcs"] != state.ports["ray_gcs"]
    assert set(ROLES["prefect"].with_ports(other).ports) == {*ray.ports, "prefect"}
