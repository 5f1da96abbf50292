"""Weights from a hub on this machine, and from hubs that do not answer."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from model.errors import ConfigError
from model.miniature.weights import weights_dir
from pipeline.compute import hub as hub_module
from pipeline.compute.hub import cached_folder, local_folder, look
from pipeline.packing.config import TOKENIZER_FILES
from tests.pipeline.compute.fixtures_hub import COMMIT, hub

URL = "/{repo_id}/resolve/{revision}/{filename}"
NAME = f"hub:org/llama@{COMMIT}"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{1}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"a pickle",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and a hub that nobody can find."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return tmp_path / "cache"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub with org/llama; the requests that it got."""
    with hub("org/llama", FILES) as (address, asked):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + URL)
        yield asked


def test_a_path_is_returned_unchanged() -> None:
    assert local_folder("text", "/weights/llama") == Path("/weights/llama")


def test_a_commit_is_fetched_once_and_no_pickle_of_it(endpoint: list[str]) -> None:
    assert cached_folder(NAME) is None
    folder = local_folder("text", NAME)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: content for name, content in FILES.items() if name != "pytorch_model.bin"
    }
    asked = len(endpoint)
    assert asked
    assert local_folder("text", NAME) == cached_folder(NAME) == folder
    assert len(endpoint) == asked, "the hub is not asked about a commit that is in the cache"


def test_only_the_files_asked_for_are_fetched_and_the_rest_later(endpoint: list[str]) -> None:
    folder = local_folder("text", NAME, TOKENIZER_FILES)
    assert not list(folder.glob("*.safetensors"))
    assert cached_folder(NAME, TOKENIZER_FILES) == folder
    assert cached_folder(NAME) is None, "a part is not the whole"
    assert (local_folder("text", NAME) / "model.safetensors").read_bytes() == b"weights"


def test_a_cache_without_a_list_of_files_needs_the_weights(endpoint: list[str], cache: Path) -> None:
    """As older versions of huggingface_hub left it."""
    folder = local_folder("text", NAME)
    for listing in cache.glob("models--org--llama/trees/*"):
        listing.unlink()
    assert cached_folder(NAME) == folder
    (folder / "model.safetensors").unlink()
    assert cached_folder(NAME) is None


def test_a_repository_that_does_not_exist_is_named(endpoint: list[str]) -> None:
    other = f"hub:org/nothing@{COMMIT}"
    with pytest.raises(ConfigError, match=r"weights\.vision = 'hub:org/nothing@c+' cannot be fetched: .*404") as caught:
        local_folder("vision", other)
    assert len(str(caught.value)) < 600


FLORENCE = {file.name: file.read_bytes() for file in (weights_dir() / "florence2").iterdir()}


def looked_at(role: str, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Look at a repository with these files. Returns the hub's requests."""
    with hub("org/teacher", files) as (address, asked):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + URL)
        look(role, f"hub:org/teacher@{COMMIT}")
    return asked


def test_a_look_gets_the_headers_only(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    asked = looked_at("florence", FLORENCE, monkeypatch)
    assert {line.split()[1].rpartition("/")[2] for line in asked[1:]} == {"config.json", "model.safetensors"}
    assert sum(int(line.split()[2]) for line in asked) < 110_000 < len(FLORENCE["model.safetensors"]) / 30
    assert not list(cache.rglob("*.safetensors"))


def test_a_header_that_is_longer_than_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "FIRST_BYTES", 1000)
    asked = looked_at("florence", FLORENCE, monkeypatch)
    assert len([line for line in asked if "model.safetensors" in line]) == 2


def test_weights_in_the_cache_are_not_looked_at_again(endpoint: list[str]) -> None:
    local_folder("text", NAME)
    asked = len(endpoint)
    look("text", NAME)
    assert len(endpoint) == asked


@pytest.mark.parametrize(
    ("role", "files", "message"),
    [
        ("florence", FILES | FLORENCE | {"config.json": b'{"auto_map": {}}'}, "Florence-2 in Microsoft's remote-code"),
        ("florence", FLORENCE | {"config.json": b'{"model_type": "llama"}'}, "has the model_type 'llama'"),
        ("florence", {n: c for n, c in FLORENCE.items() if n != "tokenizer.json"}, "it lacks the tokenizer"),
        ("florence", {"config.json": b"{}", "pytorch_model.bin": b"x"}, r"holds no \.safetensors file"),
        ("florence", FLORENCE | {"model.safetensors": bytes(900)}, r"model\.safetensors: "),
        ("text", {"config.json": b"{}", "pytorch_model.bin": b"x"}, r"holds no \.safetensors file"),
        ("text", {"config.json": b"{}", "model.safetensors": b"x"}, r"model\.safetensors: "),
    ],
)
def test_a_wrong_repository_is_told_without_its_weights(
    role: str, files: dict[str, bytes], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=rf"weights\.{role} = 'hub:org/teacher@c+': .*{message}"):
        looked_at(role, files, monkeypatch)


@pytest.mark.parametrize("get", [local_folder, look])
@pytest.mark.parametrize("kind", ["refuses", "never answers", "drips"])
def test_an_unreachable_hub_is_an_error_in_seconds(kind: str, get: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a few hundredths of the seconds that a user waits."""
    monkeypatch.setattr(hub_module, "ANSWER_SECONDS", 0.3)
    started = time.monotonic()
    with dead_hub(kind) as port:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        with pytest.raises(ConfigError, match=r"weights\.florence = .* cannot be fetched: .*give a local folder"):
            get("florence", NAME)
    assert time.monotonic() - started < 3


@pytest.mark.system
@pytest.mark.parametrize("kind", ["refuses", "never answers", "drips"])
def test_an_unreachable_hub_is_an_error_in_15_s(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    with dead_hub(kind) as port:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        with pytest.raises(ConfigError, match="cannot be fetched"):
            local_folder("florence", NAME)
    assert time.monotonic() - started < 15


class dead_hub:
    """A port that refuses, that accepts and never answers, or that sends a byte now and then."""

    def __init__(self, kind: str) -> None:
        self._kind, self._socket = kind, socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._open = True

    def __enter__(self) -> int:
        import threading

        if self._kind != "refuses":
            self._socket.listen(8)
        if self._kind == "drips":
            threading.Thread(target=self._drip, daemon=True).start()
        return int(self._socket.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._socket.close()

    def _drip(self) -> None:
        try:
            connection, _ = self._socket.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while self._open:
                connection.sendall(b"x")
                time.sleep(0.2)
            connection.close()
        except OSError:
            return  # the client has gone
