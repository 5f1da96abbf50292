"""Free ports for servers on the loopback interface."""

import random
import socket
from pathlib import Path

LOW, HIGH = 15000, 32000
"""Below the range that Linux and macOS use for outgoing connections: a port in that range could be taken after it was
found free and before the server starts. Ray exits when that happens."""

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""First and last port of that range on Linux."""


def is_free(port: int) -> bool:
    """True if a server could listen on this port, on the loopback interface and on all interfaces."""
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError:
                return False
    return True


def free_ports(count: int) -> list[int]:
    """`count` distinct free ports, chosen at random so that two stacks that start together rarely choose the same.

    Raises OSError if there are not that many.
    """
    low, high = LOW, HIGH
    try:
        first_ephemeral, last_ephemeral = (int(word) for word in EPHEMERAL.read_text().split())
    except (OSError, ValueError):
        first_ephemeral, last_ephemeral = 0, 0
    if first_ephemeral < high and last_ephemeral > low:
        low, high = (last_ephemeral + 1, 65000) if last_ephemeral < 60000 else (5000, max(first_ephemeral, 6000))
    found: list[int] = []
    candidates = random.SystemRandom().sample(range(low, high), high - low)
    while len(found) < count and candidates:
        port = candidates.pop()
        if is_free(port):
            found.append(port)
    if len(found) < count:
        raise OSError(f"found only {len(found)} free ports between {low} and {high}, but {count} are needed")
    return found
