"""The lock of gc: one process removes at a time, and a run that begins meanwhile waits."""

import threading
import time

import pytest

from model.errors import ConfigError
from pipeline.artifacts import removal
from pipeline.artifacts.contents import Thing
from pipeline.artifacts.removal import RemovalLock, lock_holder, remove_all, wait_for_removal
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


def test_the_lock_is_renewed_between_the_files_of_one_thing(any_store: ArtifactStore) -> None:
    # A folder of an object store may have so many files that its removal takes longer than the lock holds.
    for number in range(3):
        any_store.write_json(f"work/one/{number}.json", number)
    paths = tuple(sorted(map(str, any_store.fs.find(any_store.join("work/one")))))
    assert len(paths) == 3
    renewals: list[int] = []
    thing = Thing("work files", "work/one", 3, 3, 0.0, paths=paths)
    assert [trouble for _, trouble in remove_all(any_store, [thing], lambda: renewals.append(1))] == [""]
    assert len(renewals) == 1 + len(paths)
    assert any_store.fs.find(any_store.join("work/one")) == []
