"""JSON over HTTP, and what becomes of errors."""

from typing import Any

import pytest

from flows.ports import free_ports
from flows.web import Refused, answers, call
from tests.flows.servers import serving


def echo(method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
    if path == "/empty":
        return 204, None
    if path == "/refuse":
        return 422, {"detail": "limit must be 1 or more"}
    return 200, {"method": method, "path": path, "body": body, "auth": headers.get("Authorization")}


def test_requests_carry_body_and_token() -> None:
    with serving(echo) as port:
        base = f"http://127.0.0.1:{port}"
        assert call(f"{base}/a") == {"method": "GET", "path": "/a", "body": None, "auth": None}
        assert call(f"{base}/b", {"x": 1}, token="t")["auth"] == "Bearer t"
        assert call(f"{base}/b", {})["method"] == "POST"
        assert call(f"{base}/empty") is None
        assert answers(f"{base}/empty") is True


def test_a_refusal_says_what_the_server_said() -> None:
    with serving(echo) as port:
        with pytest.raises(Refused, match="limit must be 1 or more") as caught:
            call(f"http://127.0.0.1:{port}/refuse")
        assert caught.value.status == 422
        assert answers(f"http://127.0.0.1:{port}/refuse") is None


def test_no_server_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}/"
    assert answers(url) is None
    with pytest.raises(OSError, match="refused"):
        call(url)


def test_a_proxy_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_ports(1)[0]}")
    with serving(echo) as port:
        assert call(f"http://127.0.0.1:{port}/a")["path"] == "/a"
