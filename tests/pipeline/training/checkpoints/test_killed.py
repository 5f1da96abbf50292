"""A process that is killed (SIGKILL) while it writes a checkpoint, at any place of the write."""

import multiprocessing as mp
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts import filesystem
from pipeline.artifacts.shards import Shards
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.checkpoints.state import Snapshot
from tests.pipeline.training.checkpoints.fixtures_interrupted import (
    EXECUTION,
    Run,
    World,
    assert_same,
    go_on,
    shards_at,
)

PLACES: dict[str, tuple[Any, str, int]] = {
    "before any file": (CheckpointFolder, "commit", 1),
    "in the drafts": (Snapshot, "write_optimizer", 1),
    "after the drafts": (filesystem, "expected_version", 3),
    "before the first file has its name": (filesystem, "create", 1),
    "after the first file": (filesystem, "create", 2),
    "after all files, before the seal": (filesystem, "create_bytes", 1),
    "after the seal": (Shards, "_is_still", 1),
    "after the commit, before older ones are removed": (CheckpointFolder, "prune", 1),
    "between the removal of a seal and of its files": (filesystem, "remove", 2),
}
"""Place -> the function that the process calls there, and the call at which it dies, counted from its second write."""


def dying(world: World, root: Path, place: str) -> None:
    """Train with a checkpoint after each step, and die in the third checkpoint."""
    torch.set_num_threads(1)
    owner, name, call = PLACES[place]
    original, begin, calls, commits = getattr(owner, name), CheckpointFolder.commit, [], []

    def counted(self: CheckpointFolder, snapshot: Snapshot) -> None:
        commits.append(snapshot.step)
        if name == "commit" and len(commits) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        begin(self, snapshot)

    def armed(*arguments: Any, **options: Any) -> Any:
        if len(commits) == 3:
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    if name != "commit":
        setattr(owner, name, armed)
    CheckpointFolder.commit = counted  # type: ignore[method-assign]
    go_on(world.trainer("stage1"), shards_at(root), root / "cache")


@pytest.mark.parametrize("place", PLACES)
def test_a_stage_killed_while_it_writes_ends_with_the_same_bits(world: World, tmp_path: Path, place: str) -> None:
    process = mp.get_context("fork").Process(target=dying, args=(world, tmp_path, place))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    trainer = world.trainer("stage1", EXECUTION.model_copy(update={"checkpoint_steps": 2}))
    checkpoints = go_on(trainer, shards_at(tmp_path), tmp_path / "cache")
    sealed = place in list(PLACES)[6:]
    assert checkpoints.resumed_from == [3 if sealed else 2]
    assert_same(Run.of(trainer), world.reference("stage1"))
    # What the killed process left is gone: files without a seal, and drafts.
    folder = Path(shards_at(tmp_path).path(""))
    seals = {path.stem for path in folder.glob("_seals/*.json")}
    assert {path.parent.name.rpartition("-")[0] for path in folder.glob("step-*/*")} == seals
