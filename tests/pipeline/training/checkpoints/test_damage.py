"""A checkpoint that is not exactly what was sealed is named and left out, and the one before is taken."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts.shards import Shards
from pipeline.training.checkpoints.folder import CheckpointFolder
from pipeline.training.checkpoints.names import sealed_steps
from tests.pipeline.training.checkpoints.fixtures_interrupted import (
    EXECUTION,
    Killed,
    Run,
    World,
    assert_same,
    go_on,
    shards_at,
)


@pytest.fixture(scope="module")
def stopped(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the checkpoints of steps 3 and 4."""
    root = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Killed):
        go_on(world.trainer("stage1"), shards_at(root), root / "cache", 4)
    assert sealed_steps(shards_at(root)) == [4, 3]
    return root


def data_file(root: Path, name: str) -> Path:
    (path,) = root.glob(f"work/id/checkpoints-0/step-00000004-*/{name}")
    return path


def seal_file(root: Path) -> Path:
    return root / "work/id/checkpoints-0/_seals/step-00000004.json"


def flip(path: Path, place: float = 0.7) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped bit of the weights": (lambda root: flip(data_file(root, "weights.safetensors")), "checksum"),
    "flipped bit of the optimizer": (lambda root: flip(data_file(root, "optimizer.safetensors"), 0.01), "checksum"),
    "flipped bit of the state": (lambda root: flip(data_file(root, "state.json")), "checksum"),
    "truncated weights": (lambda root: cut(data_file(root, "weights.safetensors")), "bytes, and its seal says"),
    "empty optimizer": (lambda root: data_file(root, "optimizer.safetensors").write_bytes(b"") and None, "has 0 bytes"),
    "missing state": (lambda root: data_file(root, "state.json").unlink(), "state.json is missing"),
    "flipped bit of the seal": (lambda root: flip(seal_file(root)), "its seal is damaged"),
    "truncated seal": (lambda root: cut(seal_file(root)), "its seal is damaged"),
    "missing seal": (lambda root: seal_file(root).unlink(), ""),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_checkpoint_before_is_taken(
    stopped: Path, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The damaged one and its files are removed, so that it is not kept in place of a good one."""
    root = tmp_path / "store"
    shutil.copytree(stopped, root)
    damage, reason = DAMAGE[kind]
    damage(root)
    folder = CheckpointFolder(shards_at(root))
    folder.sweep()
    assert next(folder.intact())[0] == 3
    said = capfd.readouterr().out
    assert re.search(f"checkpoint step-00000004 is not used: .*{reason}", said) if reason else not said
    assert folder.steps() == [3]
    folder.sweep()
    left = {path.name.rpartition("-")[0] for path in root.glob("work/id/checkpoints-0/step-*") if any(path.iterdir())}
    assert left == {"step-00000003"}


def test_training_goes_on_from_the_checkpoint_before(world: World, stopped: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(stopped, root)
    flip(data_file(root, "weights.safetensors"))
    trainer = world.trainer("stage1")
    checkpoints = go_on(trainer, shards_at(root), tmp_path / "cache")
    assert checkpoints.resumed_from == [3]
    assert_same(Run.of(trainer), world.reference("stage1"))


def test_without_an_intact_checkpoint_the_stage_begins_with_its_parent(
    world: World, stopped: Path, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    shutil.copytree(stopped, root)
    for path in root.glob("work/id/checkpoints-0/step-*/weights.safetensors"):
        flip(path)
    trainer = world.trainer("stage1", EXECUTION.model_copy(update={"checkpoint_steps": 3}))
    assert go_on(trainer, shards_at(root), tmp_path / "cache").resumed_from == []
    assert_same(Run.of(trainer), world.reference("stage1"))


def test_checkpoints_of_other_inputs_are_not_taken(stopped: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(stopped, root)
    other: Shards = shards_at(root, "inputs that were made again")
    assert list(CheckpointFolder(other).intact()) == []
