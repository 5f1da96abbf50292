"""Poison: it is committed, the first commit wins, and what everything dies of is nobody's fault."""

from pathlib import Path

import pyarrow as pa
import pytest

from model.errors import StepError
from pipeline.artifacts.shards import Shards
from pipeline.artifacts.store import ArtifactStore
from pipeline.masks.attempts import Attempts
from pipeline.masks.poison import REASONS, ROUNDS, Poison
from pipeline.schemas import QUERIES

NAME = "part-00000-of-00001"


class Prober:
    """Pictures of these names kill the process that does this kind of work."""

    def __init__(self, **guilty: set[str]) -> None:
        self.guilty, self.trials = guilty, 0

    def survives(self, work: str, shard: int, queries: pa.Table) -> bool:
        self.trials += 1
        assert len(queries) == 2 * len(set(queries["image"].to_pylist()))
        return not self.guilty.get(work, set()) & set(queries["image"].to_pylist())


def queries(count: int) -> pa.Table:
    rows = [
        {**dict.fromkeys(QUERIES.names), "image": f"{index}.jpg", "image_sha256": str(index), "turn": turn}
        for index in range(count)
        for turn in range(2)
    ]
    return pa.Table.from_pylist(rows, schema=QUERIES)


@pytest.fixture
def poison(tmp_path: Path) -> Poison:
    return opened(tmp_path)


def opened(folder: Path) -> Poison:
    store = ArtifactStore(f"memory://{folder.name}")  # a disk would sync each trial
    return Poison(Shards(store, "work/id/poison-1", "inputs"), Attempts(store, "work/id/attempts-1"))


def search(poison: Poison, prober: Prober, count: int = 8, proven: bool = True) -> None:
    poison.search(NAME, 0, queries(count), prober, lambda found: None, proven)


def test_both_kinds_of_work_are_searched_and_another_process_sees_what_was_found(
    poison: Poison, tmp_path: Path
) -> None:
    search(poison, Prober(decode={"3.jpg"}, teacher={"3.jpg", "6.jpg"}))
    assert poison.of(NAME) == opened(tmp_path).of(NAME) == {3: REASONS["decode"], 6: REASONS["teacher"]}


def test_the_first_commit_of_a_round_wins(poison: Poison, tmp_path: Path) -> None:
    late = opened(tmp_path)
    search(poison, Prober(decode={"1.jpg"}))
    search(late, Prober())
    assert late.of(NAME) == {1: REASONS["decode"]}


def test_a_later_round_adds_pictures_and_never_tries_known_ones(poison: Poison) -> None:
    search(poison, Prober(decode={"1.jpg"}))
    search(poison, Prober(decode={"1.jpg"}, teacher={"2.jpg"}))
    assert poison.of(NAME) == {1: REASONS["decode"], 2: REASONS["teacher"]}


def test_pictures_that_kill_only_together_end_the_step(poison: Poison) -> None:
    for _ in range(ROUNDS):
        search(poison, Prober())
    with pytest.raises(StepError, match=r"none of its pictures does so alone.*lower teacher.batch_queries"):
        search(poison, Prober())


def test_searches_of_earlier_runs_that_found_nothing_do_not_end_this_run(tmp_path: Path) -> None:
    """Each kill of a whole run leaves notes at the shards in flight, which are then searched."""
    for _ in range(ROUNDS + 2):
        search(opened(tmp_path), Prober())
    assert opened(tmp_path).of(NAME) == {}


@pytest.mark.parametrize("count", [1, 2, 32])
def test_if_everything_dies_before_anything_worked_no_picture_is_blamed(
    poison: Poison, tmp_path: Path, count: int
) -> None:
    everything = Prober(teacher={f"{index}.jpg" for index in range(count)})
    with pytest.raises(StepError, match="so the pictures are not the cause"):
        search(poison, everything, count, proven=False)
    assert everything.trials <= 7
    assert opened(tmp_path).of(NAME) == {}
    search(opened(tmp_path), Prober(), count, proven=False)  # after a repair
    assert opened(tmp_path).of(NAME) == {}


def test_a_whole_shard_of_poison_is_accepted_where_other_work_succeeded(poison: Poison) -> None:
    search(poison, Prober(teacher={"0.jpg", "1.jpg"}), count=2)
    assert set(poison.of(NAME)) == {0, 1}


def test_what_was_found_can_be_forgotten(poison: Poison, tmp_path: Path) -> None:
    search(poison, Prober(decode={"1.jpg"}))
    poison.forget()
    assert poison.of(NAME) == opened(tmp_path).of(NAME) == {}
