"""The record of a stack survives being written, read and damaged."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from flows import home, state
from flows.state import ProcessRecord, StackError, StackState


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGEVLM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AGEVLM_STORE", raising=False)
    return tmp_path / "home"


def test_what_is_saved_is_loaded() -> None:
    record = ProcessRecord(role="ray", pid=7, created=12.5, log="ray.log", command=["ray", "start"])
    saved = StackState(id="abc", ports={"prefect": 4}, cpus=4).with_process(record)
    state.save(saved)
    assert state.load() == saved
    assert saved.url("prefect") == "http://127.0.0.1:4"
    state.forget()
    assert state.load() is None
    state.forget()  # no error where there is none


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"id": "x", "ports": 7}'])
def test_a_damaged_record_is_named_with_the_remedy(content: bytes, own_home: Path) -> None:
    own_home.mkdir()
    (own_home / "stack.json").write_bytes(content)
    with pytest.raises(StackError, match=r"stack\.json is damaged(.|\n)*'agevlm down' ends its stack"):
        state.load()


def test_what_another_version_recorded_besides_does_not_matter(own_home: Path) -> None:
    record = ProcessRecord(role="ray", pid=7, created=12.5, log="ray.log", command=["ray", "start"])
    saved = StackState(id="abc").with_process(record)
    own_home.mkdir()
    value = saved.model_dump(mode="json") | {"colour": "red"}
    value["processes"]["ray"]["mood"] = "good"
    (own_home / "stack.json").write_text(json.dumps(value))
    assert state.load() == saved


def test_two_commands_at_once_are_refused() -> None:
    with state.lock(), pytest.raises(StackError, match="another 'agevlm up'"), state.lock():
        pytest.fail("the lock was taken twice")
    with state.lock():
        pass  # and it is free again


def test_everything_lies_below_the_home(own_home: Path) -> None:
    assert home.home() == own_home
    assert Path(home.store_root()) == own_home / "artifacts"
    assert home.prefect_home().parent == home.logs().parent == own_home


def test_the_store_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEVLM_STORE", "s3://bucket/agevlm")
    assert home.store_root() == "s3://bucket/agevlm"
    monkeypatch.setenv("AGEVLM_STORE", str(tmp_path / "x" / ".." / "store"))
    assert home.store_root() == str(tmp_path / "store")


@pytest.mark.parametrize("length", [3, 200])
def test_socket_paths_stay_short_enough(length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEVLM_HOME", f"/{'d' * length}")
    folder = home.ray_folder()
    longest = folder / "session_2026-11-22_20-14-02_077769_1300612" / "sockets" / "plasma_store"
    assert len(os.fsencode(longest)) <= 107
    monkeypatch.setenv("AGEVLM_HOME", f"/{'d' * length}e")
    assert home.ray_folder() != folder  # two homes never share Ray's folder


@pytest.mark.parametrize("temporary", ["/tmp", "/scratch", "/" + "t" * 60])
def test_a_long_temporary_folder_is_not_used(temporary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEVLM_HOME", "/" + "d" * 60)
    monkeypatch.setattr(tempfile, "tempdir", temporary)
    folder = home.ray_folder()
    assert folder.parent == Path(temporary if len(temporary) < 20 else "/tmp")
    assert len(os.fsencode(folder)) <= home.SOCKET_FOLDER_LENGTH


def test_the_store_in_use_is_the_one_named_else_the_stacks_else_the_homes(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state.store_in_use() == str(own_home / "artifacts")
    state.save(StackState(id="abc", store="/stacks/own"))
    assert state.store_in_use() == "/stacks/own"
    monkeypatch.setenv("AGEVLM_STORE", "/named")
    assert state.store_in_use() == "/named"
