"""JSON over HTTP to the stack's servers on the loopback interface. Imports only the standard library: it is quick."""

import base64
import http.client
import json
import string
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

PAUSE = 1.0
"""Seconds between two tries."""
PATIENCE = 90.0
"""Seconds for which `insist` repeats a request to a server that does not answer or is busy."""

# Never through a proxy: these servers are on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Refused(OSError):
    """A server answered with an error; `detail` is its explanation."""

    def __init__(self, url: str, status: int, detail: str) -> None:
        super().__init__(f"{url} answered {status}: {detail}")
        self.status, self.detail = status, detail


def bearer(secret: str) -> str:
    """The header 'Authorization' that Ray's servers ask for."""
    return f"Bearer {secret}"


def basic(secret: str) -> str:
    """The header 'Authorization' that Prefect's server asks for: the secret is its whole authentication string."""
    return f"Basic {base64.b64encode(secret.encode()).decode('ascii')}"


@dataclass(frozen=True)
class Server:
    """One server of the stack: its address, and the header that proves who asks."""

    url: str
    authorization: str = ""

    def call(self, path: str, body: Any = None, **options: Any) -> Any:
        """As the function `call`, for a path of this server."""
        return call(self.url + path, body, authorization=self.authorization, **options)

    def insist(self, path: str, body: Any = None, **options: Any) -> Any:
        """As the function `insist`, for a path of this server."""
        return insist(self.url + path, body, authorization=self.authorization, **options)

    def answers(self, path: str, body: Any = None, **options: Any) -> Any | None:
        """As the function `answers`, for a path of this server."""
        return answers(self.url + path, body=body, authorization=self.authorization, **options)


def call(url: str, body: Any = None, *, method: str = "", timeout: float = 10, authorization: str = "") -> Any:
    """The JSON that a server answers, or None for an empty answer.

    Raises Refused if the server answers with an error, and another OSError if it does not answer, or if its answer is
    incomplete or not JSON.
    """
    headers = {"Accept": "application/json"}
    if authorization:
        headers["Authorization"] = authorization
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    try:
        address = urllib.parse.quote(url, safe=string.punctuation)  # a name that a user typed may contain a space
        request = urllib.request.Request(address, data, headers, method=method or ("POST" if data else "GET"))
        try:
            with _OPENER.open(request, timeout=timeout) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(url, error.code, _detail(error.read())) from error
        return json.loads(content) if content else None
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{url} gave no usable answer ({error!r})") from error


def insist(url: str, body: Any = None, *, patience: float | None = None, **options: Any) -> Any:
    """As `call`, repeated for `patience` (PATIENCE) seconds while the server does not answer or is too busy.

    The request must be idempotent. Raises as `call` does.
    """
    deadline = time.monotonic() + (PATIENCE if patience is None else patience)
    while True:
        try:
            return call(url, body, **options)
        except Refused as error:
            if error.status < 500 or time.monotonic() > deadline:  # a busy database answers 503
                raise
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(PAUSE)


def answers(url: str, **options: Any) -> Any | None:
    """The result of `call` (True for an empty answer), or None if the server answers with an error or not at all."""
    try:
        value = call(url, **options)
    except OSError:
        return None
    return True if value is None else value


def _detail(content: bytes) -> str:
    text = content.decode("utf-8", errors="replace")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text[:500]
    detail = value.get("detail", value.get("exception_detail", value)) if isinstance(value, dict) else value
    return detail if isinstance(detail, str) else json.dumps(detail)[:500]
