"""The store: an artifact exists when its manifest does, and is what the manifest says."""

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from model.errors import ArtifactError, StepError
from pipeline.artifacts import patience
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.spec import ArtifactRef, StepSpec
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore
from tests.pipeline.artifacts.conftest import Publish


def test_a_published_artifact_is_found_read_and_verified(store: ArtifactStore, publish: Publish) -> None:
    made = publish("inventory", b"hello")
    found = store.get(made.ref)
    assert found is not None
    assert found.open("folder/file.bin").read() == b"hello"
    assert (found.local() / "folder/file.bin").read_bytes() == b"hello"
    assert found.verify() == []
    assert found.manifest.sha256 == made.manifest.sha256
    assert [a.ref for a in store.artifacts()] == [made.ref]


def test_unpublished_files_are_not_an_artifact(store: ArtifactStore) -> None:
    spec = StepSpec(step="pack", revision=1, params={}, inputs={})
    ref = ArtifactRef(kind="pack", name="x", id=spec.id())
    staging = Staging(store, ref, spec, 0, {})
    staging.write_bytes("part.bin", b"half")
    assert store.get(ref) is None
    assert list(store.artifacts()) == []
    staging.discard()
    assert not Path(staging.base).exists()


def test_publishing_without_files_is_an_error(store: ArtifactStore) -> None:
    spec = StepSpec(step="pack", revision=1, params={}, inputs={})
    staging = Staging(store, ArtifactRef(kind="pack", name="x", id=spec.id()), spec, 0, {})
    with pytest.raises(ArtifactError, match="wrote no file"):
        staging.publish(Counts(unit="row", rows_in=0, rows_out=0))


@pytest.mark.parametrize("position", [0, 3, -1])
def test_a_flipped_byte_is_found_and_named(publish: Publish, position: int) -> None:
    artifact = publish("masks", b"0123456789")
    file = artifact.local() / "folder/file.bin"
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    (problem,) = artifact.verify()
    assert problem.file == "folder/file.bin"
    assert "sha256" in problem.what


def test_a_missing_and_a_shorter_file_are_named(publish: Publish) -> None:
    artifact = publish("masks", b"0123456789")
    file = artifact.local() / "folder/file.bin"
    file.write_bytes(b"01")
    assert "has 2 bytes, not 10" in artifact.verify()[0].what
    file.unlink()
    assert "is missing" in artifact.verify()[0].what


def test_a_file_that_cannot_be_read_is_named_like_any_bad_file(publish: Publish) -> None:
    artifact = publish("masks", b"0123456789")
    file = artifact.local() / "folder/file.bin"
    file.unlink()
    file.mkdir()
    assert [(p.file, p.what) for p in artifact.verify()] == [("folder/file.bin", "cannot be read (Is a directory)")]
    file.rmdir()
    file.symlink_to(file.name)
    assert "cannot be read (Too many levels" in artifact.verify()[0].what


@pytest.mark.parametrize("content", ["{}", "", "\0\0"])
def test_a_damaged_manifest_is_an_error_with_a_remedy(store: ArtifactStore, publish: Publish, content: str) -> None:
    artifact = publish("masks")
    Path(store.manifest_path(artifact.ref)).write_text(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged.*out of the store and run the step again"):
        store.get(artifact.ref)
    sound = publish("pack")
    with pytest.raises(ArtifactError, match="damaged"):
        list(store.artifacts())
    damaged: list[ArtifactError] = []
    assert [a.ref for a in store.artifacts(damaged)] == [sound.ref]
    assert [artifact.ref.path in str(error) for error in damaged] == [True]
    assert store.find_ref(artifact.ref.id[:8]) == artifact.ref


def test_an_edited_manifest_is_noticed(store: ArtifactStore, publish: Publish) -> None:
    artifact = publish("masks", b"content")
    path = Path(store.manifest_path(artifact.ref))
    path.write_text(path.read_text().replace(b"content".hex(), b"CONTENT".hex()))
    with pytest.raises(ArtifactError, match="it was changed after it was written"):
        store.get(artifact.ref)


def test_a_manifest_that_cannot_be_read_is_an_artifact_error(store: ArtifactStore, publish: Publish) -> None:
    artifact = publish("masks")
    path = Path(store.manifest_path(artifact.ref))
    path.unlink()
    path.mkdir()
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read \(Is a directory\); correct that"):
        store.get(artifact.ref)


@pytest.mark.parametrize("change", [{"kind": "pack"}, {"name": "other"}, {"id": "0" * 64}])
def test_an_artifact_in_the_folder_of_another_is_an_error(
    store: ArtifactStore, publish: Publish, change: dict[str, str]
) -> None:
    artifact = publish("masks")
    place = artifact.ref.model_copy(update=change)
    shutil.copytree(store.join(artifact.ref.path), store.join(place.path))
    with pytest.raises(ArtifactError, match=rf"is that of {artifact.ref.path}; move it back or out of the store"):
        store.get(place)


def test_files_and_folders_are_synced_before_the_manifest_is_written(
    store: ArtifactStore, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record each path that is synced, and whether the manifest exists at that moment."""
    synced: list[tuple[str, bool]] = []
    really = os.fsync

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((path, bool(list(Path(store.base).rglob("manifest.json")))))
        really(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    artifact = publish("masks")
    folder, data = store.join(artifact.ref.path), artifact.path()
    before = [path for path, there in synced if not there]
    names = [f"{data}/folder/file.bin", data, f"{data}/folder", folder]
    names += [os.path.dirname(folder), os.path.dirname(os.path.dirname(folder)), store.base]
    assert before[:-1] == names
    assert before[-1].endswith(".partial"), "the manifest is last"
    assert [path for path, there in synced if there] == [folder], "then the folder with its name"


def test_a_file_system_that_cannot_sync_folders_is_accepted_but_a_bad_disk_is_an_error(
    publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.fsync

    def failing(number: int) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            really(descriptor)

        return fsync

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    assert publish("masks").verify() == []
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    monkeypatch.setattr(patience, "OUTAGE_SECONDS", 0.1)
    with pytest.raises(StepError, match=r"the store has failed for .*Input/output error"):
        publish("pack")


def test_of_many_writers_one_wins_and_all_return_its_artifact(store: ArtifactStore) -> None:
    spec = StepSpec(step="pack", revision=1, params={}, inputs={})
    ref = ArtifactRef(kind="pack", name="x", id=spec.id())
    barrier = threading.Barrier(8)
    results: list[Artifact] = []

    def write(number: int) -> None:
        staging = Staging(store, ref, spec, 0, {})
        staging.write_bytes("part.bin", bytes([number]))
        barrier.wait()
        results.append(staging.publish(Counts(unit="row", rows_in=1, rows_out=1)))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({artifact.manifest.data for artifact in results}) == 1
    assert len(results) == 8
    assert results[0].verify() == []


def test_a_second_writer_does_not_adopt_bad_files(store: ArtifactStore, publish: Publish) -> None:
    first = publish("pack", b"good")
    (first.local() / "folder/file.bin").write_bytes(b"evil")
    with pytest.raises(ArtifactError, match="another writer"):
        publish("pack", b"good")


def test_ids_are_found_by_prefix(store: ArtifactStore, publish: Publish) -> None:
    artifact = publish("pack")
    assert store.find(artifact.ref.id[:8]).ref == artifact.ref
    assert store.find(str(artifact.ref)).ref == artifact.ref
    with pytest.raises(ArtifactError, match="no artifact's id"):
        store.find("f" * 64 if not artifact.ref.id.startswith("f" * 64) else "0")
    with pytest.raises(ArtifactError, match="not an artifact id"):
        store.find("")


def test_forcing_moves_the_attempt_and_keeps_the_old_artifact(store: ArtifactStore) -> None:
    spec = StepSpec(step="masks", revision=1, params={}, inputs={})
    assert store.attempt(spec) == 0
    assert store.new_attempt(spec) == 1
    assert store.new_attempt(spec) == 2
    assert store.attempt(spec) == 2
    assert store.attempt(spec.model_copy(update={"revision": 2})) == 0


def test_counts_that_lose_a_row_are_refused() -> None:
    Counts(unit="row", rows_in=10, rows_out=6, rejected={"bad": 3}, not_selected=1)
    with pytest.raises(ValidationError, match="not conserved"):
        Counts(unit="row", rows_in=10, rows_out=6, rejected={"bad": 3})


def test_the_store_works_on_a_file_system_that_is_not_local(publish: Publish) -> None:
    store = ArtifactStore("memory://agevlm-test")
    spec = StepSpec(step="pack", revision=1, params={}, inputs={})
    ref = ArtifactRef(kind="pack", name="x", id=spec.id())
    staging = Staging(store, ref, spec, 0, {})
    staging.write_bytes("a/part.bin", b"abc")
    made = staging.publish(Counts(unit="row", rows_in=1, rows_out=1))
    assert made.verify() == []
    assert [a.ref for a in store.artifacts()] == [ref]
    assert store.find(ref.id[:10]).open("a/part.bin").read() == b"abc"


def test_a_remote_artifact_is_fetched_to_be_read_locally(tmp_path: Path) -> None:
    store = ArtifactStore("memory://agevlm-fetch")
    spec = StepSpec(step="pack", revision=1, params={}, inputs={})
    staging = Staging(store, ArtifactRef(kind="pack", name="x", id=spec.id()), spec, 0, {})
    staging.write_bytes("a/part.bin", b"abc")
    made = staging.publish(Counts(unit="row", rows_in=1, rows_out=1))
    assert (made.local(tmp_path) / "a/part.bin").read_bytes() == b"abc"
    with pytest.raises(ArtifactError, match="cache folder"):
        made.local()
    store.fs.rm(store.join(made.ref.path), recursive=True)
    staging = Staging(store, made.ref, spec, 0, {})
    staging.write_bytes("a/part.bin", b"xyz")
    again = staging.publish(Counts(unit="row", rows_in=1, rows_out=1))
    assert (again.local(tmp_path) / "a/part.bin").read_bytes() == b"xyz", "not the cached file of the deleted artifact"
