"""Proxy variables of the user's environment: the stack's own servers are never asked through a proxy.

Everything else (a model hub, an object store) still goes through it. A process of the stack also gets no proxy variable
that Prefect's HTTP client cannot read: it would fail before its first request, also one to this machine.
"""

import ipaddress
import re
import urllib.parse
from collections.abc import Mapping
from importlib.util import find_spec

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
EXEMPT = ("NO_PROXY", "no_proxy")
EXEMPT_GRPC = "no_grpc_proxy"
"""gRPC, and so Ray, reads this variable in place of `no_proxy` where it is set."""
SCHEMES = frozenset({"http", "https"})
SOCKS_SCHEMES = frozenset({"socks5", "socks5h"})
SOCKS_PACKAGES = ("socksio", "python_socks")
"""Packages without which Prefect's clients, httpx (socksio) and websockets (python_socks), refuse a SOCKS proxy."""


def proxy_variables(env: Mapping[str, str]) -> dict[str, str | None]:
    """The proxy variables that differ for processes of the stack; None for one that they do not get.

    Returns {} if the user has set no proxy.
    """
    given = {name: value for name, value in env.items() if name.lower() in PROXIES}
    if not any(value.strip() for value in given.values()):
        return {}
    exempt = exempted([env.get(name, "") for name in EXEMPT])
    changed: dict[str, str | None] = {name: None for name, value in given.items() if unusable(value)}
    changed |= dict.fromkeys(EXEMPT, exempt)
    # gRPC knows no '*'.
    changed[EXEMPT_GRPC] = exempted([*(env.get(name, "") for name in EXEMPT), env.get(EXEMPT_GRPC, "")], star=False)
    return changed


def exempted(lists: list[str], star: bool = True) -> str:
    """One list of exempted hosts from several, with the loopback addresses; '*' alone if one of them has it."""
    hosts = [_host(word) for text in lists for word in re.split(r"[,\s]+", text)]
    if star and "*" in hosts:
        return "*"  # urllib knows it only alone
    return ",".join(dict.fromkeys([*(host for host in hosts if host and host != "*"), *LOOPBACK]))


def _host(word: str) -> str:
    """An entry of a list of exempted hosts as httpx can read it; '' if it cannot."""
    bare = word.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_network(bare, strict=False)
        return bare
    except ValueError:
        return word if re.fullmatch(r"(\w+://)?[\w.*-]+(:\d{1,5})?", word) else ""


def unusable(value: str) -> str:
    """The reason why the HTTP clients of Prefect cannot use a proxy's address; '' if they can.

    Never has the address itself: it may contain a password.
    """
    if not value.strip():
        return ""
    text = value if "://" in value else f"http://{value}"
    try:
        parts = urllib.parse.urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError:
        return "it is not an address"
    if parts.scheme in SOCKS_SCHEMES:
        missing = [name for name in SOCKS_PACKAGES if find_spec(name) is None]
        return f"SOCKS proxies need the packages {' and '.join(SOCKS_PACKAGES)}" if missing else ""
    if parts.scheme not in SCHEMES:
        return f"'{parts.scheme}' is no kind of proxy that they know" if parts.scheme.isalnum() else "no address"
    good = host and re.fullmatch(r"[\w.:-]+", host, re.ASCII) and port != 0 and text.isprintable() and " " not in text
    return "" if good else "it is not an address"


def proxy_notes(env: Mapping[str, str]) -> list[str]:
    """A line for each proxy variable that the processes of the stack do not get."""
    return [
        f"{name} is not handed on to the stack, because {unusable(env[name])}; if a hub or an object store is reached "
        "through it, give a proxy of kind http://HOST:PORT"
        for name, value in proxy_variables(env).items()
        if value is None
    ]
