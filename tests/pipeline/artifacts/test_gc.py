"""The rules of gc: roots and their lineage are kept, and the removal leaves a sound store wherever it is killed."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts import filesystem
from pipeline.artifacts.contents import Thing, contents, scratch_files
from pipeline.artifacts.gc import DAY, Judge, Needs, Rules, Verdict, in_order
from pipeline.artifacts.lineage import stale_reason
from pipeline.artifacts.manifest import Counts
from pipeline.artifacts.removal import remove_all
from pipeline.artifacts.spec import ArtifactRef, StepSpec, short
from pipeline.artifacts.staging import Staging
from pipeline.artifacts.store import Artifact, ArtifactStore

LATER = 60 * DAY
KINDS = ("segments", "segments", "masks", "masks", "checkpoint", "report")


def publish(store: ArtifactStore, kind: str, word: str, later: float = 0.0, **parents: Artifact) -> Artifact:
    spec = StepSpec(step=kind, revision=1, params={"word": word}, inputs={k: a.ref.id for k, a in parents.items()})
    staging = Staging(store, ArtifactRef(kind=kind, name="x", id=spec.id()), spec, 0, parents, job=f"job-{word}")
    staging._started += timedelta(seconds=later)  # a start is recorded to the second
    staging.write_bytes("part-0.parquet", word.encode())
    return staging.publish(Counts(unit="row", rows_in=1, rows_out=1))


def judge(store: ArtifactStore, needs: Needs | None = None, after: float = LATER, **rules: float) -> dict[str, Verdict]:
    """Verdicts by path, some time from now."""
    judged = Judge(contents(store), needs or Needs(), Rules(**rules), time.time() + after)  # type: ignore[arg-type]
    return {verdict.thing.path: verdict for verdict in judged.verdicts()}


def put(store: ArtifactStore, path: str, content: bytes = b"x") -> None:
    full = store.join(path)
    store.fs.makedirs(full.rpartition("/")[0], exist_ok=True)
    store.fs.pipe_file(full, content)


@pytest.fixture
def made(any_store: ArtifactStore) -> dict[str, Artifact]:
    """Two generations of segments and masks, and a checkpoint of the first one's masks."""
    found: dict[str, Artifact] = {}
    for number, word in enumerate(("old", "trained", "new")):
        found[f"{word} segments"] = publish(any_store, "segments", word, number)
        found[f"{word} masks"] = publish(any_store, "masks", word, number, segments=found[f"{word} segments"])
    found["checkpoint"] = publish(any_store, "checkpoint", "c", masks=found["trained masks"])
    return found


def garbage_of(store: ArtifactStore, made: dict[str, Artifact], **more: object) -> set[str]:
    verdicts = judge(store, **more)  # type: ignore[arg-type]
    return {name for name, artifact in made.items() if not verdicts[artifact.ref.path].keep}


def test_roots_and_their_lineage_are_kept(any_store: ArtifactStore, made: dict[str, Artifact]) -> None:
    assert garbage_of(any_store, made) == {"old masks", "old segments"}
    verdicts = judge(any_store)
    assert verdicts[made["new masks"].ref.path].why == "the newest masks/x"
    assert verdicts[made["checkpoint"].ref.path].why == "is a checkpoint"
    assert verdicts[made["trained masks"].ref.path].why == f"{made['checkpoint'].ref} was made from it"
    assert verdicts[made["trained segments"].ref.path].keep
    assert "60 d" in verdicts[made["old masks"].ref.path].why
    assert garbage_of(any_store, made, after=29 * DAY) == set(), "young ones stay"
    root = Needs(roots={made["old masks"].ref.id: "tag 'best'"})
    assert garbage_of(any_store, made, needs=root) == set(), "a tagged one stays with its inputs"
    assert garbage_of(any_store, made, kept_kinds=frozenset()) == {"old masks", "old segments"}, "it is the newest"


def test_what_killed_writers_left_is_found(any_store: ArtifactStore, made: dict[str, Artifact]) -> None:
    store, unfinished, dead = any_store, "ab" * 32, "cd" * 32
    shards, private = f"segments/x/{unfinished}/data-0123456789ab", f"report/x/{dead}/data-{'0' * 32}"
    lost = f"{made['new masks'].ref.path}/data-{'1' * 32}"
    for path in (shards, private, lost):
        put(store, f"{path}/part-0.parquet")
    published = f"{made['checkpoint'].ref.path}/{made['checkpoint'].manifest.data}"
    put(store, f"{published}/checkpoint-5.safetensors")
    for id in (unfinished, made["new masks"].ref.id):
        put(store, f"work/{id}/table")
    put(store, "jobs/job-new.json")
    put(store, "jobs/job-gone.json")
    put(store, "runs/r1.json")
    put(store, "runs/r1.events.jsonl")
    put(store, f"tensorboard/x-{short(made['checkpoint'].ref.id)}/events")

    after_days = judge(store, after=3 * DAY)
    gone = {path for path, verdict in after_days.items() if not verdict.keep}
    assert gone == {private, lost, published, f"work/{made['new masks'].ref.id}"}, "the others can be resumed"
    assert after_days[published].thing.files == 1
    later = judge(store)
    assert not later[shards].keep
    assert not later[f"work/{unfinished}"].keep
    assert later["jobs/job-new.json"].why.startswith("it made ")
    assert not later["jobs/job-gone.json"].keep
    assert not later["runs/r1.json"].keep
    assert later[f"tensorboard/x-{short(made['checkpoint'].ref.id)}"].keep
    busy = judge(
        store, Needs(roots={unfinished: "run r1 is running"}, open_runs=frozenset({"r1"}), jobs=frozenset({"job-gone"}))
    )
    for path in (shards, f"work/{unfinished}", "jobs/job-gone.json", "runs/r1.json", "runs/r1.events.jsonl"):
        assert busy[path].keep, path
    put(store, f"progress/{unfinished}.json")
    assert judge(store, after=0.5 * DAY, older_than=0.0)[shards].why.startswith("its step reported progress")


def test_a_damaged_artifact_is_never_removed(any_store: ArtifactStore, made: dict[str, Artifact]) -> None:
    put(any_store, f"{made['old masks'].ref.path}/manifest.json", b"{")
    verdict = judge(any_store)[made["old masks"].ref.path]
    assert verdict.keep
    assert "damaged" in verdict.why


def test_a_removal_that_is_killed_anywhere_leaves_a_sound_store(
    any_store: ArtifactStore, made: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file operation is the last one in turn; the next gc finishes the work."""
    store, real = any_store, filesystem.remove

    def sound() -> None:
        for artifact in store.artifacts():
            assert artifact.verify() == []
            assert stale_reason(store, artifact) == ""

    rounds = 0
    for _ in range(40):
        verdicts = list(judge(store, after=LATER).values())
        garbage = in_order(v.thing for v in verdicts if not v.keep)
        if not garbage:
            break
        rounds += 1
        left = [1]

        def killed(fs: Any, path: str, left: list[int] = left) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop()
            real(fs, path)

        monkeypatch.setattr(filesystem, "remove", killed)
        try:
            list(remove_all(store, garbage))
        except KeyboardInterrupt:
            sound()
        monkeypatch.undo()
    assert rounds >= 4, "two artifacts of a manifest and a file each"
    sound()
    kept = {artifact.ref.path for artifact in store.artifacts()}
    assert kept == {a.ref.path for name, a in made.items() if not name.startswith("old")}
    assert not any(made["old masks"].ref.id in path for path in store.fs.find(store.base))


def test_files_of_a_writer_that_came_back_are_left(any_store: ArtifactStore) -> None:
    path = f"segments/x/{'ab' * 32}/data-0123456789ab"
    put(any_store, f"{path}/part-0.parquet")
    garbage = [v.thing for v in judge(any_store).values() if not v.keep]
    put(any_store, f"{path}/part-1.parquet")
    assert [trouble for _, trouble in remove_all(any_store, garbage)] == ["it changed meanwhile"]
    assert len(any_store.fs.find(any_store.join(path))) == 2


def test_the_link_latest_does_not_lead_nowhere(store: ArtifactStore) -> None:
    artifact = publish(store, "masks", "only")
    link = Path(store.join("masks", "x", "latest"))
    assert link.exists()
    [thing] = [thing for thing in contents(store) if thing.what == "artifact"]
    assert [trouble for _, trouble in remove_all(store, [thing])] == [""]
    assert not link.is_symlink()
    assert not Path(store.join(artifact.ref.path)).exists()


def test_scratch_files_of_artifacts_are_found(tmp_path: Path) -> None:
    draft = f".w.{'0' * 32}.partial"
    for file in (
        f"cache/{'a' * 64}/f",
        f"work/{'b' * 64}/f",
        "miniature/world/f",
        f"miniature/{draft}/f",
        "cache/mine/f",
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(b"xx")
    found = {(thing.what, Path(thing.path).name, thing.size) for thing in scratch_files(tmp_path)}
    assert found == {
        ("cached files", "a" * 64, 2),
        ("work files", "b" * 64, 2),
        ("leftover files", draft, 2),
    }


@st.composite
def stores(draw: st.DrawFn) -> list[Thing]:
    """Artifacts whose parents come before them."""
    things: list[Thing] = []
    for number in range(draw(st.integers(1, 12))):
        ref = ArtifactRef(kind=draw(st.sampled_from(KINDS)), name="a", id=f"{number:064x}")
        parents = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        age = draw(st.sampled_from((1, 40, 60, 90))) * DAY
        things.append(
            Thing("artifact", ref.path, 1, 1, -age, id=ref.id, ref=ref, started=f"{-age + 1e9:020.3f}",
                  parents=tuple(things[p].ref for p in sorted(parents) if things[p].ref))  # type: ignore[misc]
        )  # fmt: skip
    return things


@settings(max_examples=50, deadline=None)
@given(stores(), st.data())
def test_whatever_is_removed_no_kept_artifact_loses_an_ancestor(things: list[Thing], data: st.DataObject) -> None:
    roots = {thing.id: "tag" for thing in things if data.draw(st.integers(0, 9)) == 9}
    verdicts = list(Judge(things, Needs(roots=roots), Rules(), now=0.0).verdicts())
    garbage = in_order(verdict.thing for verdict in verdicts if not verdict.keep)
    assert not roots.keys() & {thing.id for thing in garbage}
    assert all(-thing.changed >= 30 * DAY for thing in garbage)
    assert {v.thing.ref.kind for v in verdicts if v.thing.ref and not v.keep} <= {"segments", "masks"}
    alive = {thing.id for thing in things}
    for thing in garbage:
        alive.remove(thing.id)
        for other in things:
            assert other.id not in alive or {parent.id for parent in other.parents} <= alive
