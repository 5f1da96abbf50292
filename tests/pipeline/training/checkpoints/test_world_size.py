"""A stage goes on with another number of workers: the same samples in the same order, the loss equal to rounding."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.pipeline.training.checkpoints.fixtures_interrupted import (
    EXECUTION,
    STEPS,
    Killed,
    Run,
    World,
    go_on,
    shards_at,
)

LIVES: list[tuple[int, int | None]] = [(2, 2), (1, 4), (2, None)]
"""Workers of each life of a stage, and the step after which it ends."""
CASES = {"ddp": "stage4_lm", "fsdp": "stage3"}
WEIGHT_TOLERANCE = 2e-4
"""Six steps of AdamW can move a weight by 6 x 3e-3; a rounding error of a tiny gradient by a small share of that."""


def worker(rank: int, world: World, folder: str) -> None:
    """All lives of both stages, in one pair of processes."""
    torch.set_num_threads(1)
    for parallel in CASES:
        root = Path(folder) / parallel
        os.makedirs(root, exist_ok=True)
        for number, (workers, stop) in enumerate(LIVES):
            # Worker 1 comes to the second meeting early, and waits.
            if rank < workers:
                if workers > 1:
                    store = dist.FileStore(str(root / f"meeting-{number}"), workers)
                    dist.init_process_group("gloo", store=store, rank=rank, world_size=workers)
                live(rank, workers, number, world, root, parallel, stop)
                if dist.is_initialized():
                    dist.destroy_process_group()


def live(rank: int, workers: int, number: int, world: World, root: Path, parallel: str, stop: int | None) -> None:
    """One life. Each worker records the samples of its steps; worker 0 saves the end."""
    execution = EXECUTION.model_copy(update={"parallel": parallel if workers > 1 else "auto"})
    trainer = world.trainer(CASES[parallel], execution, rank)
    seen: dict[int, list[str]] = {}
    collate, step = trainer._collate, trainer.step

    def recording(rows: Any) -> Any:
        batch = collate(rows)
        object.__setattr__(batch, "sample_ids", [row.sample_id for row in rows])
        return batch

    def recorded(parts: Any, rate: float) -> None:
        seen[trainer.done] = [name for part in parts for name in part.sample_ids]
        step(parts, rate)

    trainer._collate, trainer.step = recording, recorded  # type: ignore[assignment,method-assign]
    try:
        go_on(trainer, shards_at(root), root / f"cache-{rank}", stop)
    except Killed:
        assert stop is not None
    else:
        run = Run.of(trainer)
        if rank == 0:
            torch.save({"weights": run.weights, "rows": run.rows, "notes": run.notes}, root / "end.pt")
    torch.save(seen, root / f"seen-{number}-{rank}.pt")


@pytest.fixture(scope="module")
def ended(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lives")
    mp.spawn(worker, (world, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("parallel", CASES)
def test_two_workers_then_one_then_two(world: World, ended: Path, parallel: str) -> None:
    whole, end = world.reference(CASES[parallel]), torch.load(ended / parallel / "end.pt")
    samples = world.trainer(CASES[parallel]).samples
    for step in range(STEPS):
        number = step // 2
        workers = LIVES[number][0]
        files = [ended / parallel / f"seen-{number}-{rank}.pt" for rank in range(workers)]
        parts = [sorted(torch.load(file)[step]) for file in files]
        batch = [samples.reader.row(address).sample_id for address in samples.order.batch(step)]
        share = len(batch) // workers
        assert parts == [sorted(batch[rank * share : (rank + 1) * share]) for rank in range(workers)]
    assert [row["step"] for row in end["rows"]] == list(range(1, STEPS + 1))
    assert end["notes"] == whole.notes
    for mine, theirs in zip(whole.rows, end["rows"], strict=True):
        for name in ("guided_rows", "samples", "learning_rate"):
            assert theirs[name] == mine[name]
        for name in ("lm_loss", "guidance_loss", "held_out_loss", "held_out_guidance_loss"):
            close = theirs[name] is None if mine[name] is None else theirs[name] == pytest.approx(mine[name], rel=1e-4)
            assert close, (mine["step"], name, mine[name], theirs[name])
    for name, value in whole.weights.items():
        torch.testing.assert_close(end["weights"][name], value, rtol=1e-4, atol=WEIGHT_TOLERANCE)
