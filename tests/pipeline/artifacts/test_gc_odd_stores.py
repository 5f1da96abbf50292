"""gc in stores with what agevlm did not write, cannot read or cannot remove: it never removes what may be needed."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ArtifactError
from pipeline.artifacts import filesystem, removal
from pipeline.artifacts.attempts import REFS
from pipeline.artifacts.contents import contents, scratch_files
from pipeline.artifacts.gc import DAY, Judge, Needs, Rules, in_order
from pipeline.artifacts.lineage import lineage
from pipeline.artifacts.manifest import SELF, Counts
from pipeline.artifacts.removal import FAILED, RemovalLock, lock_holder, remove_all
from pipeline.artifacts.spec import ArtifactRef, StepSpec, canonical_json, digest
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore

LATER = 60 * DAY
SPEC = StepSpec(step="masks", revision=1, params={}, inputs={})


def publish(
    store: ArtifactStore, kind: str, word: str, later: float = 0.0, name: str = "x", **parents: Artifact
) -> Artifact:
    spec = StepSpec(step="s", revision=1, params={"word": word}, inputs={k: a.ref.id for k, a in parents.items()})
    staging = Staging(store, ArtifactRef(kind=kind, name=name, id=spec.id()), spec, 0, parents)
    staging._started += timedelta(seconds=later)
    staging.write_bytes("part-0.parquet", word.encode())
    return staging.publish(Counts(unit="row", rows_in=1, rows_out=1))


def garbage_of(store: ArtifactStore, needs: Needs | None = None) -> list[str]:
    """Paths of what may go in 60 days from now, in the order of its removal."""
    judge = Judge(contents(store), needs or Needs(), Rules(), time.time() + LATER)
    return [thing.path for thing in in_order(v.thing for v in judge.verdicts() if not v.keep)]


def remove(store: ArtifactStore, needs: Needs | None = None) -> dict[str, str]:
    judge = Judge(contents(store), needs or Needs(), Rules(), time.time() + LATER)
    garbage = in_order(v.thing for v in judge.verdicts() if not v.keep)
    return {thing.path: trouble for thing, trouble in remove_all(store, garbage)}


def test_files_of_others_are_never_garbage(store: ArtifactStore) -> None:
    """A store's root may be the home of a person, by mistake."""
    artifact = publish(store, "masks", "only")
    foreign = (
        "notes.txt",
        "backup/2024/letters/a.txt",
        "masks/x/my-copy/data-0123456789ab/part-0.parquet",
        f"masks/x/{'ab' * 32}/mine.txt",
        f"masks/x/{'ab' * 32}/mine/deep.txt",
        f"{artifact.ref.path}/readme.txt",
        "work/mine/file",
        "runs/notes.txt",
        "runs/folder/x.txt",
        "jobs/folder/x.json",
        "progress/mine.json",
        "tensorboard/mine/events",
        "lost+found/a/b/c",
        "masks/x/line\nbreak/\x1b[31m/f",
    )
    for path in foreign:
        file = Path(store.base, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    Path(store.base, "masks", "file-in-place-of-a-name").write_bytes(b"")
    Path(store.base, "segments").write_bytes(b"a file in place of a kind")
    remove(store)
    assert [path for path in foreign if not Path(store.base, path).exists()] == []
    assert artifact.verify() == []


@pytest.mark.parametrize("name", ["line\nbreak", "\x1b[31m", "back\\slash", "byte\udcff"])
def test_a_folder_with_a_name_that_no_artifact_has_is_left_alone(store: ArtifactStore, name: str) -> None:
    """Also if it looks like an artifact's below that name."""
    artifact = publish(store, "masks", "only")
    for path in (f"masks/{name}/{'ab' * 32}", f"{name}/x/{'ab' * 32}", f"masks/x/{name}"):
        Path(store.base, path).mkdir(parents=True)
        Path(store.base, path, "manifest.json").write_bytes(b"")
    assert [thing.path for thing in contents(store)] == [artifact.ref.path]
    assert list(store.refs()) == [artifact.ref]
    assert store.find("masks").ref == store.find("latest").ref == artifact.ref
    assert remove(store) == {}


def test_a_removed_artifact_leaves_what_others_put_beside_it(store: ArtifactStore) -> None:
    old, _ = publish(store, "masks", "old"), publish(store, "masks", "new", later=1)
    other = Path(store.base, old.ref.path, "data-0123456789ab", "part-0.parquet")
    other.parent.mkdir()
    other.write_bytes(b"of a writer that is at work")
    os.utime(other, (time.time() + LATER,) * 2)
    assert remove(store) == {old.ref.path: ""}
    assert other.exists()
    assert not store.exists(old.ref)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_read_stops_the_listing(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It could hold a tag, a run, or the manifest of a checkpoint; fsspec takes such a folder for an empty one."""
    artifact = publish(store, "masks", "only")
    store.tags.put("best", artifact.ref)
    store.new_attempt(SPEC)
    real, hidden = os.scandir, ""

    def scandir(path: Any) -> Any:
        if str(path) == hidden:
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for folder, look in (
        ("masks", contents), ("masks/x", contents), (artifact.ref.path, contents),
        ("tags", lambda s: s.tags.all()), ("tags/best", lambda s: s.tags.all()), ("masks/x", lambda s: s.refs()),
        (f"refs/{SPEC.hash}", lambda s: [s.attempt(SPEC)]),
    ):  # fmt: skip
        hidden = ""
        assert list(look(store)) != []
        hidden = store.join(folder).rstrip("/")
        with pytest.raises(OSError, match=os.strerror(number)):
            list(look(store))


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b'{"format": 2}', b"\xff\xfe", b"null", b"9" * 10_000])
def test_while_a_manifest_is_damaged_no_artifact_goes(store: ArtifactStore, content: bytes) -> None:
    """Nobody knows what it was made from; its inputs could be needed to repair what a tag keeps."""
    segments = publish(store, "segments", "old")
    publish(store, "segments", "new", later=1)
    child = publish(store, "masks", "tagged", segments=segments)
    needs = Needs(roots={child.ref.id: "tag"})
    Path(store.manifest_path(child.ref)).write_bytes(content)
    assert garbage_of(store, needs) == []
    Path(store.manifest_path(child.ref)).unlink()
    assert segments.ref.path in garbage_of(store)


def test_an_artifact_of_a_newer_version_stays_with_all_others_and_is_not_called_damaged(store: ArtifactStore) -> None:
    """People move damaged ones out of the store; this one is another machine's, whose agevlm is newer."""
    segments, child = publish(store, "segments", "old"), publish(store, "masks", "only")
    publish(store, "segments", "new", later=1)
    path = Path(store.manifest_path(child.ref))
    path.write_bytes(path.read_bytes().replace(b'"format":2', b'"format":3'))
    with pytest.raises(ArtifactError, match=r"its format is 3, .* use the version that wrote it") as caught:
        store.get(child.ref)
    assert "damaged" not in str(caught.value)
    assert remove(store) == {}
    assert store.exists(segments.ref)


def test_artifacts_of_one_id_are_judged_each(store: ArtifactStore) -> None:
    """Two steps with one spec have one id; the kind and name are no part of it."""
    first, second = publish(store, "report", "same"), publish(store, "masks", "same")
    publish(store, "masks", "newer", later=1)
    assert first.ref.id == second.ref.id
    assert garbage_of(store) == [second.ref.path]


def test_of_two_that_began_at_once_the_one_called_latest_stays(store: ArtifactStore) -> None:
    for word in "abcdef":
        publish(store, "masks", word)
    manifests = [store.get(ref).manifest for ref in store.refs()]  # type: ignore[union-attr]
    if len({manifest.provenance.started for manifest in manifests}) == 1:
        latest = store.find_ref("masks/x/latest")
        assert latest.path not in garbage_of(store)


def test_the_removal_goes_on_after_a_failure_and_keeps_the_inputs_of_what_is_left(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = publish(store, "segments", "old")
    masks = publish(store, "masks", "old", segments=segments)
    other = publish(store, "overlap", "old")
    for kind in ("segments", "masks", "overlap"):
        publish(store, kind, "new", later=1)
    real = filesystem.remove

    def no_right(fs: object, path: str) -> None:
        if path == store.manifest_path(masks.ref):
            raise PermissionError(13, "Permission denied", path)
        real(fs, path)

    monkeypatch.setattr(filesystem, "remove", no_right)
    done = remove(store)
    assert done[masks.ref.path].startswith(FAILED)
    assert "was made from it" in done[segments.ref.path]
    assert done[other.ref.path] == ""
    assert masks.verify() == segments.verify() == []


def test_what_was_made_from_another_goes_first(store: ArtifactStore) -> None:
    """Whatever their names: the masks' kind comes before that of the segments, and here they are the input."""
    masks = publish(store, "masks", "old")
    segments = publish(store, "segments", "old", masks=masks)
    last = publish(store, "masks", "last", segments=segments)
    for kind in ("masks", "segments"):
        publish(store, kind, "new", later=1)
    assert garbage_of(store) == [last.ref.path, segments.ref.path, masks.ref.path]


def test_a_link_to_another_disk_is_left(store: ArtifactStore, tmp_path: Path) -> None:
    """Kinds and names may lie on another disk; what lies there counts. A linked data folder is left alone."""
    segments = publish(store, "segments", "old")
    publish(store, "segments", "new", later=1)
    checkpoint = publish(store, "checkpoint", "c", segments=segments)
    moved = tmp_path / "big disk"
    Path(store.base, "checkpoint").rename(moved)
    Path(store.base, "checkpoint").symlink_to(moved)
    assert checkpoint.ref in list(store.refs())
    assert garbage_of(store) == []
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"x")
    unfinished = Path(store.base, "segments", "x", "ab" * 32)
    unfinished.mkdir()
    (unfinished / "data-0123456789ab").symlink_to(precious)
    (unfinished / "loop").symlink_to(unfinished)
    assert all(not trouble or trouble.startswith(FAILED) for trouble in remove(store).values())
    assert (precious / "file").exists()


def test_an_artifact_whose_data_is_on_another_disk_stays_whole(store: ArtifactStore, tmp_path: Path) -> None:
    old, _ = publish(store, "masks", "old"), publish(store, "masks", "new", later=1)
    moved = tmp_path / "big disk"
    Path(old.path()).rename(moved)
    Path(old.path()).symlink_to(moved)
    assert remove(store) == {old.ref.path: f"{FAILED}: it is a link to another place"}
    assert store.require(old.ref).verify() == []


def test_files_that_are_published_meanwhile_are_left(store: ArtifactStore) -> None:
    staging = Staging(store, ArtifactRef(kind="masks", name="x", id=SPEC.id()), SPEC, 0, {})
    staging.write_bytes("part-0.parquet", b"x")
    judge = Judge(contents(store), Needs(), Rules(), time.time() + LATER)
    garbage = in_order(v.thing for v in judge.verdicts() if not v.keep)
    artifact = staging.publish(Counts(unit="row", rows_in=1, rows_out=1))
    assert [trouble for _, trouble in remove_all(store, garbage)] == ["it was published meanwhile"]
    assert artifact.verify() == []


def test_a_lock_of_a_machine_with_another_clock_holds(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with RemovalLock(store), monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 4e9)
        assert "process" in lock_holder(store)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 1e9)
        with RemovalLock(store):
            patch.undo()
            assert "process" in lock_holder(store)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"until": "soon"}', b'{"until": null}', b"[" * 100_000])
def test_a_damaged_lock_blocks_nobody(store: ArtifactStore, content: bytes) -> None:
    lock = Path(store.join(removal.LOCK, "7.json"))
    lock.parent.mkdir(parents=True)
    lock.write_bytes(content)
    assert lock_holder(store) == ""
    with RemovalLock(store):
        assert "process" in lock_holder(store)


def test_a_damaged_record_of_attempts_is_named(store: ArtifactStore) -> None:
    old = Path(store.join(REFS, f"{SPEC.hash}.json"))
    old.parent.mkdir(parents=True)
    for content in (b"", b"{}", b"[]", b'{"attempt": "x"}', b"[" * 100_000):
        old.write_bytes(content)
        with pytest.raises(ArtifactError, match="is damaged"):
            store.attempt(SPEC)


def test_a_scratch_file_that_vanishes_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a" * 64, "b" * 64):
        (tmp_path / "work" / name).mkdir(parents=True)
    real = Path.lstat

    def gone(path: Path) -> os.stat_result:
        if path.name == "a" * 64:
            raise FileNotFoundError(2, "gone", str(path))
        return real(path)

    monkeypatch.setattr(Path, "lstat", gone)
    assert [thing.id for thing in scratch_files(tmp_path)] == ["b" * 64]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, set[int], bool, bool]]:
    """For each artifact: kind, the earlier ones it was made from, whether it is tagged, whether it is old."""
    count = draw(st.integers(1, 7))
    return [
        (
            draw(st.sampled_from(["segments", "masks", "pack"])),
            draw(st.sets(st.integers(0, number - 1), max_size=2)) if number else set(),
            draw(st.integers(0, 4)) == 4,
            draw(st.integers(0, 3)) > 0,
        )
        for number in range(count)
    ]


@settings(max_examples=20, deadline=None)
@given(history=histories(), kill=st.integers(0, 12))
def test_whatever_a_store_has_and_wherever_gc_is_killed_the_needed_verifies(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, set[int], bool, bool]], kill: int
) -> None:
    store = ArtifactStore(str(tmp_path_factory.mktemp("random") / "s"))
    made: list[Artifact] = []
    roots: dict[str, str] = {}
    for number, (kind, parents, tagged, old) in enumerate(history):
        made.append(publish(store, kind, str(number), number, **{f"p{p}": made[p] for p in parents}))
        if tagged:
            roots[made[-1].ref.id] = "tag"
        if not old:
            os.utime(store.manifest_path(made[-1].ref), (time.time() + LATER,) * 2)
    young = {a.ref for a, (*_, old) in zip(made, history, strict=True) if not old}
    needed = [a for a in made if a.ref.id in roots or a.ref in young]
    operations = _killed_after(kill)
    with pytest.MonkeyPatch.context() as patch:
        real = filesystem.remove
        patch.setattr(filesystem, "remove", lambda fs, path: (next(operations), real(fs, path)))
        with suppress(KeyboardInterrupt):
            remove(store, Needs(roots=roots))
    for artifact in needed:
        for node in lineage(store, artifact):
            assert node.trouble == ""
            assert node.artifact is not None
            assert node.artifact.verify() == []
    for left in store.artifacts():
        assert left.verify() == []
        assert [node.trouble for node in lineage(store, left) if node.trouble] == []
    remove(store, Needs(roots=roots))
    assert garbage_of(store, Needs(roots=roots)) == [], "the next gc finishes the work"


def _killed_after(count: int) -> Iterator[None]:
    yield from [None] * count
    raise KeyboardInterrupt


def test_statistics_that_are_nested_too_deep_are_a_damaged_manifest(store: ArtifactStore) -> None:
    """The manifest's own digest is right: whoever can write to the store can make one."""
    artifact = publish(store, "masks", "x")
    body = artifact.manifest.model_dump(mode="json")
    for _ in range(400):
        body["statistics"] = {"a": body["statistics"]}
    Path(store.manifest_path(artifact.ref)).write_text(canonical_json({**body, SELF: digest(body)}))
    with pytest.raises(ArtifactError, match="is damaged"):
        store.get(artifact.ref)
