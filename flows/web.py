"""JSON over HTTP to the stack's own servers on the loopback interface, with nothing that is slow to import."""

import json
import urllib.error
import urllib.request
from typing import Any

from flows.home import ray_token_file

# Never through a proxy: these servers are on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url: str, body: Any = None, *, method: str = "", timeout: float = 10, token: str = "") -> Any:
    """The JSON that a server answers, or None for an empty answer.

    Raises OSError (of which urllib's errors are a kind) if the server is not there or refuses.
    """
    headers = {"Accept": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, data=data, headers=headers, method=method or ("POST" if data else "GET"))
    with _OPENER.open(request, timeout=timeout) as answer:
        content = answer.read()
    return json.loads(content) if content else None


def answers(url: str, **options: Any) -> Any | None:
    """What `call` returns (True for an empty answer), or None if the server is not there or answers with an error."""
    try:
        value = call(url, **options)
    except (OSError, ValueError):
        return None
    return True if value is None else value


def ray_token() -> str:
    """The token of this home's Ray."""
    return ray_token_file().read_text(encoding="ascii").strip()
