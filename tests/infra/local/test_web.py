"""JSON over HTTP; every failure is an OSError."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from infra.local import web
from infra.local.ports import free_ports
from infra.local.web import Refused, answers, bearer, call, insist
from tests.infra.local.fixtures_http_server import serving


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
        assert call(f"{base}/b", {"x": 1}, authorization=bearer("t"))["auth"] == "Bearer t"
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


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """A server that answers every request with exactly these bytes and closes the connection; yields its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer:
                peer.recv(65536)
                peer.sendall(content)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",  # IncompleteRead
        b"HTTP/1.1 200 OK\r\n\r\n{",  # incomplete JSON
        b"HTTP/1.1 200 OK\r\n\r\n<html>another server's page</html>",
        b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 900\r\n\r\n{",
        b"SSH-2.0-OpenSSH\r\n",  # BadStatusLine
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"",
    ],
)
def test_an_unusable_answer_is_an_oserror(content: bytes) -> None:
    with answering(content) as url:
        with pytest.raises(OSError, match=r"127\.0\.0\.1|closed|reset"):
            call(url)
        assert answers(url) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/", "http://127.0.0.1:99999999/", "nowhere", "\udcff"])
def test_a_wrong_address_is_an_oserror(url: str) -> None:
    with pytest.raises(OSError, match=r"\S"):
        call(url)


def test_names_may_hold_anything() -> None:
    with serving(echo) as port:
        found = call(f"http://127.0.0.1:{port}/name/a b\n\u00e9%2Fc")
    assert found["path"] == "/name/a%20b%0A%C3%A9%2Fc"


def test_a_busy_server_is_asked_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PAUSE", 0.01)
    asked: list[str] = []

    def busy(method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        asked.append(path)
        return (503, {"detail": "busy"}) if len(asked) < 3 or path == "/always" else (200, len(asked))

    with serving(busy) as port:
        assert insist(f"http://127.0.0.1:{port}/") == 3
        monkeypatch.setattr(web, "PATIENCE", 0.05)
        with pytest.raises(Refused, match="busy"):
            insist(f"http://127.0.0.1:{port}/always")


def test_a_proxy_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_ports(1)[0]}")
    with serving(echo) as port:
        assert call(f"http://127.0.0.1:{port}/a")["path"] == "/a"
