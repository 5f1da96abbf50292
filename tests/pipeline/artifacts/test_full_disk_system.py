"""A store on a real disk of 4 MiB that is full: one message, nothing half-written, and the same call works after."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from model.errors import AgevlmError
from pipeline.artifacts.atomic import write_text
from pipeline.artifacts.contents import contents
from pipeline.artifacts.manifest import MANIFEST, Counts
from pipeline.artifacts.removal import RemovalLock, remove_all
from pipeline.artifacts.room import DRAFT, explained
from pipeline.artifacts.shards import Shards
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from pipeline.dataset.export import export_dataset
from tests.pipeline.artifacts.fixtures_shards import commit

pytestmark = pytest.mark.system
SPEC = StepSpec(step="masks", revision=1, params={"n": 1}, inputs={})
BALLAST = "ballast"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=2000", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no 'mount'")
    if done.returncode:
        pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with open(disk / BALLAST, "ab", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))


def free(disk: Path) -> None:
    (disk / BALLAST).unlink()


def publish(store: ArtifactStore, word: str = "a") -> Artifact:
    spec = SPEC.model_copy(update={"params": {"word": word}})
    staging = Staging(store, ArtifactRef(kind="masks", name="x", id=spec.id()), spec, 0, {})
    staging.write_bytes("part-0.bin", word.encode() * 5000)
    return staging.publish(Counts(unit="row", rows_in=1, rows_out=1))


def finals(disk: Path) -> dict[Path, bytes]:
    """Every file with a final name. Those in a writer's private folder are no one's before its manifest."""
    files = [
        path for path in disk.rglob("*") if path.is_file() and path.name != BALLAST and not DRAFT.search(path.name)
    ]
    return {path: path.read_bytes() for path in files if "data-" not in str(path) or path.name == MANIFEST}


def force(store: ArtifactStore) -> None:
    before = store.attempt(SPEC)
    assert store.new_attempt(SPEC) == before + 1


def lock(store: ArtifactStore) -> None:
    with RemovalLock(store):
        pass


OPERATIONS: dict[str, Callable[[ArtifactStore], object]] = {
    "artifact": lambda store: publish(store, "new"),
    "json": lambda store: store.write_json("runs/r.json", {"state": "running"}),
    "text": lambda store: write_text(Path(store.base, "note.txt"), "x" * 5000),
    "tag": lambda store: store.tags.put("best", next(iter(store.refs())), move=True),
    "attempt": force,
    "shard": lambda store: commit(Shards(store, f"masks/x/{'ab' * 32}/data-0123456789ab", "inputs"), b"r" * 9000),
    "lock of gc": lock,
    "export": lambda store: export_dataset(next(store.artifacts()), Path(store.base).parent / "out"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_full_disk(disk: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.dataset.export.SPARE", 0)
    store, call = ArtifactStore(str(disk / name / "store")), OPERATIONS[name]
    publish(store)
    fill(disk)
    before = finals(disk)
    try:
        with pytest.raises((AgevlmError, OSError)) as caught:
            call(store)
        after = finals(disk)
    finally:
        free(disk)
    message = explained(caught.value) if isinstance(caught.value, OSError) else str(caught.value)
    assert "\n" not in message
    assert str(disk) in message
    assert "free" in message
    assert after == before, "nothing is under a final name that was not there, and nothing was changed"
    call(store)
    assert [problem for artifact in store.artifacts() for problem in artifact.verify()] == []


def test_gc_makes_room_on_a_full_disk(disk: Path) -> None:
    """Its lock is a few bytes, for which there is no room either."""
    store = ArtifactStore(str(disk / "gc" / "store"))
    with RemovalLock(store):
        pass
    old = publish(store)
    fill(disk)
    try:
        [thing] = [thing for thing in contents(store) if thing.what == "artifact"]
        with RemovalLock(store) as held:
            assert [trouble for _, trouble in remove_all(store, [thing], held.renew)] == [""]
        assert os.statvfs(disk).f_bavail > 0
    finally:
        free(disk)
    assert not store.exists(old.ref)
