"""Checkpoints are written aside, kept by policy, and never lost to an earlier run that still lives."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import ArtifactError
from pipeline.artifacts.shards import Shards
from pipeline.artifacts.store import ArtifactStore
from pipeline.training.checkpoints.checkpoints import Checkpoints
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.checkpoints.names import sealed_steps
from pipeline.training.checkpoints.state import Snapshot
from pipeline.training.execution import Execution
from tests.fixtures_s3 import BUCKET, s3_in_environment
from tests.pipeline.training.checkpoints.fixtures_interrupted import (
    EXECUTION,
    Killed,
    Run,
    World,
    assert_same,
    go_on,
    shards_at,
)


def snapshot(step: int, value: float = 0.0) -> Snapshot:
    """A small state."""
    weight = torch.full((4,), float(step) + value)
    state = {"step": step, "samples": step, "rows": [], "guidance_left_out": {}}
    return Snapshot(step, {"w": weight}, {"exp_avg/w": weight + 1}, state)


def files_of(shards: Shards, step: int) -> list[Path]:
    return sorted(Path(shards.path("")).glob(f"step-{step:08d}-*/*"))


def test_the_latest_ones_are_kept_while_a_stage_trains(world: World, tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def watch(checkpoints: Checkpoints) -> None:
        checkpoints._await()
        seen.append(sealed_steps(shards_at(tmp_path)))

    go_on(world.trainer("stage1"), shards_at(tmp_path), tmp_path / "cache", watch=watch)
    # The last step makes none: the stage itself is committed.
    assert seen == [[1], [2, 1], [3, 2], [4, 3], [5, 4], [5, 4]]
    assert [len(files_of(shards_at(tmp_path), step)) for step in range(1, 6)] == [0, 0, 0, 3, 3]


def test_a_checkpoint_waits_for_a_row_of_metrics(world: World, tmp_path: Path) -> None:
    """Steps 2, 4, 5 and 6 have a row if log_every is 2 and the last step has one."""
    execution = Execution(log_every=2, checkpoint_steps=1, keep_checkpoints=9)
    go_on(world.trainer("stage1", execution), shards_at(tmp_path), tmp_path / "cache")
    assert sealed_steps(shards_at(tmp_path)) == [4, 2]


def test_minutes_decide_where_steps_do_not(world: World, tmp_path: Path) -> None:
    execution = EXECUTION.model_copy(update={"checkpoint_steps": None, "checkpoint_minutes": 60.0})
    go_on(world.trainer("stage1", execution), shards_at(tmp_path), tmp_path / "cache")
    assert sealed_steps(shards_at(tmp_path)) == []
    execution = execution.model_copy(update={"checkpoint_minutes": 1e-9, "keep_checkpoints": 9})
    go_on(world.trainer("stage1", execution), shards_at(tmp_path), tmp_path / "cache")
    assert sealed_steps(shards_at(tmp_path)) == [5, 4, 3, 2, 1]


def test_training_does_not_wait_for_the_disk_and_the_time_lost_is_reported(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a checkpoint is written the next step runs; the next checkpoint waits until it is written."""
    writing, steps_meanwhile = threading.Event(), []
    commit = CheckpointFolder.commit

    def slow(self: CheckpointFolder, state: Snapshot) -> None:
        writing.set()
        time.sleep(0.5)
        commit(self, state)
        writing.clear()

    monkeypatch.setattr(CheckpointFolder, "commit", slow)
    trainer = world.trainer("stage1", EXECUTION.model_copy(update={"checkpoint_steps": 3}))

    def watch(checkpoints: Checkpoints) -> None:
        if writing.is_set():
            steps_meanwhile.append(trainer.done)

    checkpoints = go_on(trainer, shards_at(tmp_path), tmp_path / "cache", watch=watch)
    assert 3 in steps_meanwhile
    assert sealed_steps(shards_at(tmp_path)) == [3]
    lost = [row["checkpoint_seconds"] for row in trainer.log.rows]
    assert [seconds > 0 for seconds in lost] == [False, False, False, True, False, False]
    assert sum(lost) == pytest.approx(checkpoints.blocked_seconds)
    assert checkpoints.blocked_seconds < 0.5


def test_the_next_checkpoint_waits_until_the_one_before_is_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both use the same host memory, so what is written must not change meanwhile."""
    commit, changed = CheckpointFolder.commit, []

    def slow(self: CheckpointFolder, state: Snapshot) -> None:
        before = {name: value.clone() for name, value in state.weights.items()}
        time.sleep(0.3)
        changed.append(any(not torch.equal(value, before[name]) for name, value in state.weights.items()))
        commit(self, state)

    monkeypatch.setattr(CheckpointFolder, "commit", slow)
    go_on(world.trainer("stage1"), shards_at(tmp_path), tmp_path / "cache")
    assert changed == [False] * 5


def test_an_error_of_the_writer_ends_the_training(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: CheckpointFolder, state: Snapshot) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointFolder, "commit", full)
    trainer = world.trainer("stage1", EXECUTION.model_copy(update={"checkpoint_steps": 2}))
    with pytest.raises(OSError, match="No space left"):
        go_on(trainer, shards_at(tmp_path), tmp_path / "cache")
    assert 2 <= trainer.done <= 4
    late = world.trainer("stage1", EXECUTION.model_copy(update={"checkpoint_steps": 5}))
    with pytest.raises(OSError, match="No space left"):  # nothing comes after it: it is raised at the end
        go_on(late, shards_at(tmp_path), tmp_path / "cache")


# -- an earlier run that still lives


def test_the_first_seal_wins_and_the_other_writer_goes_on(tmp_path: Path) -> None:
    ours, orphan = (CheckpointFolder(shards_at(tmp_path)) for _ in range(2))
    orphan.commit(snapshot(8, 0.25))
    before = files_of(orphan.shards, 8)
    ours.commit(snapshot(8))
    assert ours.shards.checked("step-00000008").files[0].path.startswith(before[0].parent.name)
    assert files_of(ours.shards, 8) == before


def test_an_earlier_run_cannot_remove_the_newest_ones(tmp_path: Path) -> None:
    """It is behind, and keeps one: by step, that is ours."""
    ours, orphan = (CheckpointFolder(shards_at(tmp_path)) for _ in range(2))
    ours.commit(snapshot(40))
    orphan.commit(snapshot(16))
    orphan.prune(1)
    assert [step for step, _ in ours.intact()] == [40]


def test_an_earlier_run_ahead_of_us_removes_ours_and_leaves_its_own(tmp_path: Path) -> None:
    ours, orphan = (CheckpointFolder(shards_at(tmp_path)) for _ in range(2))
    orphan.commit(snapshot(40))
    ours.commit(snapshot(16))
    ours.prune(1)
    assert [step for step, _ in ours.intact()] == [40]


class Interfering(Snapshot):
    """A state that does something while its files are written."""

    def write_state(self, target: Path) -> None:
        super().write_state(target)
        self.interfere()  # type: ignore[attr-defined]


def interfering(step: int, interfere: Any) -> Snapshot:
    plain = snapshot(step)
    made = Interfering(plain.step, plain.weights, plain.optimizer, plain.state)
    object.__setattr__(made, "interfere", interfere)
    return made


def test_files_that_a_new_run_sweeps_while_they_are_written_are_written_again(tmp_path: Path) -> None:
    """The sweep may come between the first file and the seal; then the seal is not made for files that are gone."""
    ours, orphan = (CheckpointFolder(shards_at(tmp_path)) for _ in range(2))
    times = iter([True, False, False])

    def once() -> None:
        if next(times):
            ours.sweep()

    orphan.commit(interfering(8, once))
    assert [step for step, _ in ours.intact()] == [8]


@pytest.mark.parametrize("moment", ["_place", "_is_still"])
def test_a_removal_at_any_moment_of_a_commit_leaves_no_seal_without_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    ours, orphan = (CheckpointFolder(shards_at(tmp_path)) for _ in range(2))
    original, calls = getattr(Shards, moment), []

    def disturbed(self: Shards, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # after the first file
            ours.shards.remove("step-00000008") if moment == "_is_still" else ours.sweep()
        return original(self, *args)

    monkeypatch.setattr(Shards, moment, disturbed)
    with suppress(ArtifactError):
        orphan.commit(snapshot(8))
    assert [step for step, _ in ours.intact()] in ([8], [])
    assert ours.steps() in ([8], [])
    assert all(step == 8 for step, _ in ours.intact())


def test_a_checkpoint_that_disappears_while_it_is_read_is_looked_for_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier run seals step 5 and removes step 4, which a new run is about to load."""
    with pytest.raises(Killed):
        go_on(world.trainer("stage1"), shards_at(tmp_path), tmp_path / "cache", 5)
    shards, newer = shards_at(tmp_path), tmp_path / "newer"
    shutil.copytree(shards.path(""), newer)
    shards.remove("step-00000005")
    original, moved = Shards.local, []

    def local(self: Shards, seal: Any, cache: Path) -> Path:
        if not moved:
            moved.append(1)
            shutil.copytree(newer, self.path(""), dirs_exist_ok=True)
            self.remove("step-00000004")
            raise FileNotFoundError(2, "gone", seal.files[0].path)
        return original(self, seal, cache)

    monkeypatch.setattr(Shards, "local", local)
    trainer = world.trainer("stage1")
    checkpoints = go_on(trainer, shards, tmp_path / "cache")
    assert checkpoints.resumed_from == [5]
    assert_same(Run.of(trainer), world.reference("stage1"))


def test_a_run_whose_stage_is_published_meanwhile_ends(world: World, tmp_path: Path) -> None:
    """The orphan must not write into work files that were removed."""
    data = Shards(ArtifactStore(str(tmp_path)), "checkpoint/stage1/id/data-0", "inputs")
    manifest = tmp_path / "checkpoint/stage1/id/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    trainer = world.trainer("stage1")
    with (
        pytest.raises(ArtifactError, match="was published meanwhile"),
        Checkpoints(trainer, shards_at(tmp_path), 0, data.refuse_published) as checkpoints,
    ):
        trainer.run(lambda done, row: checkpoints.after_step(row is not None))
    assert not (tmp_path / "work").exists()


# -- an object store


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_in_environment():
        yield f"s3://{BUCKET}"


def test_another_machine_goes_on_from_an_object_store(world: World, s3: str, tmp_path: Path) -> None:
    """It has nothing but the store. The copy of the checkpoint does not stay in its cache."""
    shards = Shards(ArtifactStore(f"{s3}/store"), "work/id/checkpoints-0", "inputs")
    with pytest.raises(Killed):
        go_on(world.trainer("stage1"), shards, tmp_path / "one", 4)
    assert sealed_steps(shards) == [4, 3]
    shards._store.fs.pipe_file(shards.path("step-00000009-dead/weights.safetensors"), b"half")
    newest = shards.checked("step-00000004").files[0].path
    content = bytearray(shards._store.fs.cat_file(shards.path(newest)))
    content[-1] ^= 1
    shards._store.fs.pipe_file(shards.path(newest), bytes(content))
    trainer = world.trainer("stage1")
    checkpoints = go_on(trainer, shards, tmp_path / "two")
    assert checkpoints.resumed_from == [3]
    assert_same(Run.of(trainer), world.reference("stage1"))
    assert list((tmp_path / "two").rglob("*.safetensors")) == []
    assert len(shards._store.fs.find(shards.path("").rstrip("/"))) == 2 * 3 + 2
