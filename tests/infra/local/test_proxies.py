"""Proxies of the user: loopback is exempt for every client library, and a proxy that no client can read is left out."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from requests.utils import should_bypass_proxies

from infra.local.environment import process_environment, shell_lines
from infra.local.folders import Folders
from infra.local.proxies import EXEMPT, EXEMPT_GRPC, LOOPBACK, exempted, proxy_notes, proxy_variables, unusable
from infra.local.stack_file import StackState

PROXY = "http://user:word@proxy.example:3128"
NAMES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "grpc_proxy")
BAD = (
    "socks5://p:1080",
    "socks5h://p:1080",
    "socks4://p:1",
    "http://p:port",
    "http://[::1",
    "ftp://p",
    "http://",
    "a b",
)
URLS = ("http://127.0.0.1:8265", "http://localhost:4200", "http://[::1]:4200")


def handed_on(env: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables of a process of the stack."""
    changed = proxy_variables(env)
    kept = {name: value for name, value in env.items() if changed.get(name, "") is not None}
    return kept | {name: value for name, value in changed.items() if value is not None}


def test_without_a_proxy_nothing_changes() -> None:
    assert proxy_variables({"PATH": "/bin", "NO_PROXY": "a.example", "HTTP_PROXY": ""}) == {}


@pytest.mark.parametrize("name", NAMES)
def test_every_client_reaches_loopback_directly_and_the_rest_by_the_proxy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in (*NAMES, *EXEMPT, EXEMPT_GRPC):
        monkeypatch.delenv(other, raising=False)
    for variable, value in handed_on({name: PROXY, "no_proxy": "mine.example"}).items():
        monkeypatch.setenv(variable, value)
    for url in URLS:
        host = url.split("//")[1].rsplit(":", 1)[0].strip("[]")
        assert urllib.request.proxy_bypass(host)
        assert should_bypass_proxies(url, None) or "::1" in url  # requests knows no IPv6 there; no server has one
        with httpx.Client() as client:
            assert not hasattr(client._transport_for_url(httpx.URL(url))._pool, "_proxy_url")
    for variable in (*EXEMPT, EXEMPT_GRPC):
        assert {"mine.example", *LOOPBACK} == set(os.environ[variable].split(","))
    assert not urllib.request.proxy_bypass("hub.example")
    if name.lower() == "https_proxy":
        with httpx.Client() as client:
            assert hasattr(client._transport_for_url(httpx.URL("https://hub.example"))._pool, "_proxy_url")
        assert requests.utils.get_environ_proxies("https://hub.example")["https"] == PROXY


def test_the_users_own_exemptions_are_kept() -> None:
    env = {"HTTP_PROXY": PROXY, "NO_PROXY": "a.example, .b.example", "no_proxy": "10.0.0.0/8 [fe80::1] c:80"}
    changed = proxy_variables(env)
    assert changed["NO_PROXY"] == changed["no_proxy"]
    assert str(changed["NO_PROXY"]).split(",") == [
        "a.example",
        ".b.example",
        "10.0.0.0/8",
        "fe80::1",
        "c:80",
        *LOOPBACK,
    ]


def test_a_star_stays_alone_and_grpc_gets_the_addresses() -> None:
    changed = proxy_variables({"ALL_PROXY": PROXY, "NO_PROXY": "a.example,*"})
    assert (changed["NO_PROXY"], changed["no_proxy"]) == ("*", "*")
    assert changed[EXEMPT_GRPC] == ",".join(["a.example", *LOOPBACK])


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", ["ALL_PROXY", "http_proxy"])
def test_a_proxy_that_prefects_client_cannot_read_is_left_out_and_told(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, folders: Folders
) -> None:
    assert unusable(value)
    monkeypatch.setenv(name, value)
    assert name not in process_environment(folders, None, {})
    assert f"unset {name}" in shell_lines(folders, StackState(id="x")).splitlines()
    (note,) = proxy_notes({name: value})
    assert note.startswith(f"{name} is not handed on")
    assert "http://HOST:PORT" in note


def test_a_note_never_shows_a_password() -> None:
    (note,) = proxy_notes({"ALL_PROXY": "socks5://user:hunter2@proxy:1080"})
    assert "hunter2" not in note


@given(st.lists(st.text(max_size=12), max_size=4), st.sampled_from([PROXY, "socks5://p:1", "p:3128"]))
def test_httpx_can_always_be_made(words: list[str], proxy: str) -> None:
    """Whatever is exempt, a client of httpx is made: it reads these variables before its first request."""
    env = handed_on({"HTTPS_PROXY": proxy, "NO_PROXY": ",".join(words)})
    with pytest.MonkeyPatch.context() as patch:
        for name in (*NAMES, *EXEMPT):
            patch.delenv(name, raising=False)
        for name, value in env.items():
            if "\0" not in value and value.isascii():
                patch.setenv(name, value)
        httpx.Client().close()
    assert exempted(words) == "*" or exempted(words).endswith(",".join(LOOPBACK))


def test_a_child_of_a_process_of_the_stack_has_them_too(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, *EXEMPT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    code = "import urllib.request as u; print(u.proxy_bypass('127.0.0.1'), u.proxy_bypass('hub.example'))"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"]
    environment = process_environment(folders, None, {})
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert output.split() == ["True", "False"] or output.split() == ["1", "0"]
