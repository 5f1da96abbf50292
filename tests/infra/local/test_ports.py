"""Chosen ports are free, distinct, and outside the range of outgoing connections."""

import socket
from pathlib import Path

import pytest

from infra.local import ports


def test_chosen_ports_can_be_listened_on_at_once() -> None:
    chosen = ports.free_ports(12)
    assert len(set(chosen)) == 12
    sockets = []
    for port in chosen:
        server = socket.create_server(("127.0.0.1", port))
        sockets.append(server)
    for server in sockets:
        server.close()


def test_none_asked_none_given() -> None:
    assert ports.free_ports(0) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_listened_on_is_not_free(host: str) -> None:
    with socket.create_server((host, 0)) as server:
        assert not ports.is_free(server.getsockname()[1])


@pytest.mark.parametrize("ephemeral", ["32768\t60999", "15000 20000", "1024 65535"])
def test_ports_avoid_the_range_of_outgoing_connections(
    ephemeral: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "range"
    file.write_text(ephemeral)
    monkeypatch.setattr(ports, "EPHEMERAL", file)
    first, last = (int(word) for word in ephemeral.split())
    chosen = ports.free_ports(20)
    if last - first < 60000:  # else there is no room outside of it
        assert not [port for port in chosen if first <= port <= last]


def test_too_many_ports_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: False)
    with pytest.raises(OSError, match="found only 0 free ports"):
        ports.free_ports(1)
