"""Several writers of one shard: races, kills, slow and late writers. All of them end with the same intact shard."""

import errno
import subprocess
import sys
import textwrap
import threading
import uuid
from typing import Any

import pytest

from model.errors import ArtifactError
from pipeline.artifacts import filesystem
from pipeline.artifacts.shards import SEALS, Seal, Shards
from pipeline.artifacts.store import ArtifactStore
from tests.fixtures_s3 import BUCKET, S3Server
from tests.pipeline.artifacts.fixtures_shards import NAME, be_impatient, commit, put, read


@pytest.fixture
def store(any_store: ArtifactStore) -> ArtifactStore:
    return any_store


@pytest.mark.parametrize("same", [True, False], ids=["the same bytes", "other bytes"])
def test_racing_writers_agree(store: ArtifactStore, shards: Shards, same: bool) -> None:
    """Six writers commit the same four shards; all get the same seals, whose files exist."""
    names = [f"part-0000{n}-of-00004" for n in range(4)]
    found: list[dict[str, Seal]] = []
    start = threading.Barrier(6)

    def write(writer: int) -> None:
        own = Shards(ArtifactStore(store.root), shards.folder, shards.inputs)
        start.wait()
        found.append({name: commit(own, f"{name} {0 if same else writer}".encode() * 50, name) for name in names})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all({n: s.files for n, s in each.items()} == {n: s.files for n, s in found[0].items()} for each in found)
    assert {name: seal.files for name, seal in shards.committed().items()} == {n: s.files for n, s in found[0].items()}


def test_a_writer_that_is_killed_between_file_and_seal_has_committed_nothing(
    store: ArtifactStore, shards: Shards
) -> None:
    code = f"""
        import os
        from pipeline.artifacts import filesystem
        from pipeline.artifacts.shards import Shards
        from pipeline.artifacts.store import ArtifactStore
        filesystem.create_bytes = lambda *_: os._exit(9)
        shards = Shards(ArtifactStore({store.root!r}), {shards.folder!r}, "inputs")
        shards.commit({NAME!r}, {{"{NAME}.parquet": b"rows"}}, 3)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == 9
    assert read(store, shards, f"{NAME}.parquet") == b"rows"
    assert shards.committed() == {}
    seal = commit(shards)
    assert shards.committed() == {NAME: seal}


def test_nothing_of_a_published_artifact_is_removed_or_replaced(
    store: ArtifactStore, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch)
    commit(shards)
    store.fs.pipe_file(store.join("kind/name/id/manifest.json"), b"{}")
    for act in (lambda: shards.drop(NAME), shards.drop_all):
        with pytest.raises(ArtifactError, match="kind/name/id was published meanwhile"):
            act()
    assert shards.committed().keys() == {NAME}
    store.fs.rm_file(shards.path(f"{SEALS}/{NAME}.json"))
    with pytest.raises(ArtifactError, match="was published meanwhile"):
        commit(shards, b"of a late writer")
    assert read(store, shards, f"{NAME}.parquet") == b"rows"


def test_seals_that_come_and_go_while_others_work_are_no_error(
    store: ArtifactStore, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = commit(shards)
    put(store, shards, f"{SEALS}/other.json.0123.partial", b"{")
    really = store.fs.find

    def find(path: str, **options: Any) -> Any:
        """The listing, with a seal that is removed just after it."""
        gone = {"size": 3, "type": "file"}
        return {**really(path, **options), shards.path(f"{SEALS}/gone.json"): gone}

    monkeypatch.setattr(shards._store.fs, "find", find)
    shards.check_current([seal])
    assert shards.committed() == {NAME: seal}


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards(ArtifactStore(f"s3://{BUCKET}/{uuid.uuid4().hex}"), "kind/name/id/data-0", "inputs")
    seal = commit(shards)
    really, expired = shards._store.fs.open, [OSError(errno.EBUSY, "the file changed")]

    def fs_open(*arguments: Any, **options: Any) -> Any:
        if expired:
            raise expired.pop()
        return really(*arguments, **options)

    monkeypatch.setattr(shards._store.fs, "open", fs_open)
    assert commit(shards) == seal
    assert not expired


def test_a_slow_writer_notices_that_its_file_was_replaced(
    store: ArtifactStore, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes so long between file and seal that another writer thinks it was killed and replaces the file."""
    be_impatient(monkeypatch)
    really, late = filesystem.create_bytes, [True]

    def create_bytes(fs: object, path: str, content: bytes) -> bool:
        if late:
            late.clear()
            store.fs.rm_file(shards.path(f"{NAME}.parquet"))
            put(store, shards, f"{NAME}.parquet", b"other writer")
        return really(fs, path, content)

    monkeypatch.setattr(filesystem, "create_bytes", create_bytes)
    seal = commit(shards)
    assert shards.committed() == {NAME: seal}
    assert read(store, shards, f"{NAME}.parquet") == b"rows"


def test_writers_that_never_agree_are_an_error(
    store: ArtifactStore, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shards, "_place", lambda *_: False)
    with pytest.raises(ArtifactError, match="cannot be committed: other writers keep sealing"):
        commit(shards)


def test_only_current_commits_are_published(store: ArtifactStore, shards: Shards) -> None:
    seal, other = commit(shards), commit(shards, b"other", "part-00001-of-00002")
    shards.check_current([seal, other])
    shards.drop(NAME)
    with pytest.raises(ArtifactError, match=rf"{NAME}\.parquet was replaced by another writer"):
        shards.check_current([seal, other])
    store.fs.rm_file(shards.path(f"{NAME}.parquet"))
    replaced = commit(shards, b"from another kind of device")
    shards.check_current([replaced, other])
    with pytest.raises(ArtifactError, match="run the step again"):
        shards.check_current([seal])
