"""The held-out loss: the mean over all held-out tokens, divided over workers in any way, and no effect on training."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.training.data.batches import Collator
from pipeline.training.data.order import Address
from pipeline.training.data.samples import open_samples
from pipeline.training.execution import Execution
from pipeline.training.held_out import HeldOut
from tests.pipeline.training.checkpoints.fixtures_interrupted import (
    CONFIG,
    EXECUTION,
    Run,
    World,
    assert_same,
    make_world,
)
from tests.pipeline.training.fixtures_tiny_training import local_index


@pytest.fixture(scope="module")
def world(backbones: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("held-out") / "pack", backbones)


def test_training_is_bitwise_the_same_with_and_without_it(world: World) -> None:
    """Only its own columns differ."""
    often = world.trainer("stage3", EXECUTION.model_copy(update={"held_out_every": 1}))
    never = world.trainer("stage3")
    never._held_out = None
    for trainer in (often, never):
        trainer.run(lambda done, row: None)
    columns = ("held_out_loss", "held_out_guidance_loss")
    runs = [Run.of(trainer) for trainer in (often, never)]
    for row in runs[0].rows:
        assert [row[name] > 0 for name in columns] == [True, True]
    for run in runs:
        for row in run.rows:
            row.update(dict.fromkeys(columns))
    assert_same(*runs)
    assert often.model.training


@pytest.mark.parametrize(
    ("every", "log_every", "due"), [(None, 1, [6]), (2, 1, [2, 4, 6]), (3, 2, [4, 6]), (1, 2, [2, 4, 6])]
)
def test_it_is_due_at_rows_of_metrics(world: World, every: int | None, log_every: int, due: list[int]) -> None:
    """At the first row after every `held_out_every` steps, and at the end."""
    trainer = world.trainer("stage1", Execution(log_every=log_every, held_out_every=every))
    found = []
    for trainer.done in range(log_every, 7, log_every):
        if trainer._held_out_is_due():
            found.append(trainer.done)
    assert found == due


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_it_is_the_mean_over_all_tokens_for_any_number_of_workers(
    world: World, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers call the model equally often, and rows that fill up count nowhere."""
    trainer = world.trainer("stage3")
    samples = open_samples(local_index(world.pack), trainer.row, CONFIG.model_copy(update={"held_out": 2}), 0)
    rows = samples.held_out + [a for a in samples.order.batch(0) if a not in samples.held_out][:1]
    object.__setattr__(samples, "held_out", rows)
    collate = Collator(world.processor.image_processor, world.processor.tokenizer.pad_token_id, world.guide)
    sums, calls = torch.zeros(5, dtype=torch.float64), []

    def collected(value: torch.Tensor) -> torch.Tensor:
        sums.add_(value)
        return value

    def counted(batch: Any) -> Any:
        calls[-1] += 1
        return trainer.forward(batch)

    monkeypatch.setattr("pipeline.training.held_out.all_reduce", collected)
    for rank in range(workers):
        calls.append(0)
        part = HeldOut.read(samples, collate, 2, rank, workers)
        assert part is not None
        part.losses(trainer.model, counted)
    assert len(set(calls)) == 1
    with torch.no_grad():
        out = trainer.model.eval()(**collate([samples.reader.row(a) for a in rows]).inputs())
    batch = collate([samples.reader.row(a) for a in rows])
    assert float(sums[1]) == batch.target_tokens
    assert float(sums[0]) == pytest.approx(float(out.lm_loss_sum), rel=1e-5)
    assert float(sums[2]) == batch.guided_rows > 0
    assert sums[3:].tolist() == pytest.approx(out.guidance_loss_sum.tolist(), rel=1e-5)


def test_several_workers_run_the_encoder_equally_often(world: World) -> None:
    """FSDP2's workers wait for each other in every block, so a micro-batch of text alone gets a row with an image."""
    trainer = world.trainer("stage4_lm")
    object.__setattr__(trainer.samples, "held_out", [Address(0, 0), Address(0, 1)])  # row 0 is text alone
    collate = Collator(world.processor.image_processor, world.processor.tokenizer.pad_token_id, world.guide)
    seen: list[Any] = []

    def recorded(batch: Any) -> Any:
        seen.append((batch.images, batch.target_tokens))
        return trainer.forward(batch)

    alone = [collate([trainer.samples.reader.row(address)]) for address in trainer.samples.held_out]
    for rank in range(2):
        part = HeldOut.read(trainer.samples, collate, 2, rank, 2)
        assert part is not None
        part.losses(trainer.model, recorded)
    assert seen == [(1, batch.target_tokens) for batch in alone]
    assert [batch.images for batch in alone] == [0, 1]


def test_a_stage_without_held_out_rows_has_no_held_out_loss(world: World, tmp_path: Path) -> None:
    samples = open_samples(
        local_index(world.pack), world.trainer("stage1").row, CONFIG.model_copy(update={"held_out": 0}), 0
    )
    collate = Collator(world.processor.image_processor, world.processor.tokenizer.pad_token_id)
    assert HeldOut.read(samples, collate, 2) is None
