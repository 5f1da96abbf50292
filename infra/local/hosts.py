"""The address that the pages of the stack listen on."""

import ipaddress
import socket

from infra.local.stack_file import ANY_ADDRESS, LOOPBACK, StackError


def check_host(host: str) -> str:
    """The IPv4 address to listen on; 'localhost' is loopback.

    Raises StackError if it is no IPv4 address, or not one of this machine.
    """
    address = LOOPBACK if host == "localhost" else host
    try:
        found = str(ipaddress.IPv4Address(address))
    except ValueError as error:
        raise StackError(
            f"--host '{host}' is not an IPv4 address such as {LOOPBACK}, {ANY_ADDRESS} (all) or 192.168.1.5"
        ) from error
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((found, 0))
        except OSError as error:
            raise StackError(f"--host {host} is no address of this machine ({error.strerror})") from error
    return found


def is_loopback(host: str) -> bool:
    """True if only this machine reaches an address."""
    return ipaddress.IPv4Address(host).is_loopback


def warning(host: str) -> str:
    """Sentences on what an address open to other machines means; '' for loopback."""
    if is_loopback(host):
        return ""
    return (
        f"The pages of Prefect and Ray listen on {host}. They ask for the secret, but over plain HTTP: who sees the "
        "traffic can read it, and who has it runs code as you. Safer: leave --host out and use 'ssh -L', or put a "
        "proxy with TLS in front (SECURITY.md)."
    )
