"""The lock of gc: one process removes at a time, and a run that begins meanwhile waits."""

import threading
import time

import pytest

from model.errors import ConfigError
from pipeline.artifacts import removal
from pipeline.artifacts.removal import RemovalLock, lock_holder, wait_for_removal
from pipeline.artifacts.store import ArtifactStore


def test_one_process_removes_at_a_time(any_store: ArtifactStore) -> None:
    assert lock_holder(any_store) == ""
    with RemovalLock(any_store), pytest.raises(ConfigError, match=r"at work on .* already"), RemovalLock(any_store):
        pass
    assert lock_holder(any_store) == ""
    with RemovalLock(any_store):
        assert "process" in lock_holder(any_store)


def test_a_run_waits_until_the_removal_is_over(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "POLL_SECONDS", 0.02)
    said: list[str] = []
    lock = RemovalLock(store)
    lock.__enter__()
    threading.Timer(0.2, lock.__exit__, (None, None, None)).start()
    begun = time.monotonic()
    wait_for_removal(store, said.append)
    assert time.monotonic() - begun >= 0.15
    assert len(said) == 1
    wait_for_removal(store, said.append)
    assert len(said) == 1


def test_a_run_does_not_wait_for_ever_and_a_killed_gc_blocks_nobody(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "VALID_SECONDS", 0.5)
    monkeypatch.setattr(removal, "POLL_SECONDS", 0.02)
    killed = RemovalLock(store)
    killed.__enter__()
    with pytest.raises(ConfigError, match="has been at work"):
        wait_for_removal(store, lambda _: None, seconds=0)
    wait_for_removal(store, lambda _: None, seconds=10)
    with RemovalLock(store):
        monkeypatch.setattr(removal, "RENEW_SECONDS", 0.0)
        with pytest.raises(ConfigError, match="lost its lock"):
            killed.renew()
