"""The record of a stack survives being written, read and damaged."""

import os
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


def test_a_damaged_record_is_named(own_home: Path) -> None:
    own_home.mkdir()
    (own_home / "stack.json").write_text("{")
    with pytest.raises(StackError, match=r"stack\.json is damaged"):
        state.load()


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
