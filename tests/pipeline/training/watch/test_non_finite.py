"""A loss or gradient that is not finite never reaches the weights, and the message names its samples."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from model.errors import StepError
from pipeline.training.config import StageConfig
from pipeline.training.execution import Execution
from pipeline.training.loop import StageTrainer
from pipeline.training.student import join_backbones
from pipeline.training.watch.non_finite import NonFiniteGuard, finite_seed
from tests.pipeline.training.fixtures_tiny_training import make_pack
from tests.pipeline.training.test_loop import CONFIG, STUDENT, trainer_of

LONG = CONFIG.model_copy(update={"global_batch": 4, "max_steps": 6, "learning_rate": 1e-3, "length_window": 1})
ROWS_EVERY_3 = Execution(log_every=3)


@pytest.fixture(scope="module")
def world(backbones: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pack")
    _, processor = join_backbones(STUDENT, backbones["text"], backbones["vision"], 0)
    guide = make_pack(folder, processor, 24, guided_every=2)
    return {"pack": folder, "guide": guide, **backbones}


def ids_of(trainer: StageTrainer, step: int) -> list[str]:
    return [trainer.samples.reader.row(address).sample_id for address in trainer.order.batch(step)]


class Poison(torch.autograd.Function):
    """The identity with a gradient of NaN."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan")


def poison(trainer: StageTrainer, sample_ids: set[str], how: str) -> None:
    """Make the loss of batches with these samples NaN or infinite, or only its gradient NaN.

    Batches carry no ids, so a sample is known by its tokens and its picture.
    """
    rows = [trainer.samples.reader.row(a) for step in range(trainer.order.steps) for a in trainer.order.batch(step)]
    marked = [trainer._collate([row]) for row in rows if row.sample_id in sample_ids]
    assert len(marked) == len(sample_ids)
    inner = trainer.model.forward

    def has_marked(input_ids: torch.Tensor, pixels: torch.Tensor) -> bool:
        return any(
            torch.equal(ids[: m.input_ids.shape[1]], m.input_ids[0]) and torch.equal(picture, m.pixel_values[0])
            for m in marked
            for ids, picture in zip(input_ids, pixels, strict=True)
        )

    def forward(*args: Any, **inputs: Any) -> Any:
        out = inner(*args, **inputs)
        if has_marked(inputs["input_ids"], inputs["pixel_values"]):
            changed = {
                "nan": lambda loss: loss * float("nan"),
                "infinite": lambda loss: loss + float("inf"),
                "gradient": Poison.apply,
            }[how]
            out.lm_loss_sum = changed(out.lm_loss_sum)
        return out

    trainer.model.forward = forward  # type: ignore[method-assign]


def test_a_seed_of_nan_only_for_a_loss_that_is_not_finite() -> None:
    assert float(finite_seed(torch.tensor(3e38))) == 1.0
    assert torch.isnan(finite_seed(torch.tensor([float("nan"), float("inf"), -float("inf")]))).all()


def test_blocked_from_the_first_bad_step_on() -> None:
    """Weights and moments stay exactly as they were; good steps before count, good steps after do not."""
    weight = nn.Parameter(torch.ones(5))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    guard = NonFiniteGuard(torch.device("cpu"))
    kept: list[torch.Tensor] = []
    for step, gradient in enumerate([1.0, 2.0, float("nan"), 1.0, float("inf")]):
        weight.grad = torch.full((5,), gradient)
        guard.before_update(optimizer, nn.utils.clip_grad_norm_([weight], 1.0), step)
        optimizer.step()
        state = optimizer.state[weight]
        kept.append(torch.cat([weight.detach(), state["exp_avg"], state["exp_avg_sq"], state["step"].reshape(1)]))
    assert guard.first_bad_step() == 2
    assert not torch.equal(kept[0], kept[1])
    assert all(torch.equal(kept[1], later) for later in kept[2:])


def test_a_good_run_is_not_changed(world: dict[str, Any]) -> None:
    guarded, plain = trainer_of(world, "stage4_lm", LONG, 4), trainer_of(world, "stage4_lm", LONG, 4)
    plain.guard.before_update = lambda *_: None  # type: ignore[method-assign]
    for trainer in (guarded, plain):
        trainer.run(lambda done, row: None)
        assert trainer.guard.first_bad_step() is None
    theirs = plain.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in guarded.model.state_dict().items())


@pytest.mark.parametrize("how", ["nan", "infinite", "gradient"])
def test_the_samples_are_named_and_the_weights_are_those_before(world: dict[str, Any], how: str) -> None:
    trainer = trainer_of(world, "stage3", LONG, 2, execution=ROWS_EVERY_3)
    bad = set(ids_of(trainer, 1)[1:3])  # of the second step of three between two rows of metrics
    poison(trainer, bad, how)
    rows: list[Any] = []
    with pytest.raises(StepError) as caught:
        trainer.run(lambda done, row: rows.append(row))
    message = str(caught.value)
    assert message.startswith("stage3: the loss or its gradient was not finite at step 2 of 6. 2 of its 4 samples")
    named = {s for s in (f"s{i:03d}" for i in range(24)) if s in message}
    assert named == bad
    assert ("loss nan" in message, "loss inf" in message) == (how == "nan", how == "infinite")
    assert "gradient norm nan" in message
    assert "learning_rate" in message
    assert rows == [None, None]  # the row that is due is not reported: a checkpoint is written with one
    reference = trainer_of(world, "stage3", LONG.model_copy(update={"max_steps": 6}), 2)
    parts = next(reference.micro_batches())
    reference.step(parts, LONG.learning_rate)
    assert all(torch.equal(v, reference.model.state_dict()[n]) for n, v in trainer.model.state_dict().items())


def test_a_batch_that_only_overflows_together_says_so(world: dict[str, Any]) -> None:
    trainer = trainer_of(world, "stage1", LONG, 4, execution=ROWS_EVERY_3)
    inner = trainer.model.forward

    def forward(**inputs: Any) -> Any:
        out = inner(**inputs)
        if len(inputs["input_ids"]) > 1:
            out.lm_loss_sum = out.lm_loss_sum * float("inf")
        return out

    trainer.model.forward = forward  # type: ignore[method-assign]
    with pytest.raises(
        StepError, match=r"step 1 of 6, but each of its 4 rows alone is finite.*Largest gradients: s\d+"
    ):
        trainer.run(lambda done, row: None)


def test_weights_that_are_not_finite_from_the_start(world: dict[str, Any]) -> None:
    trainer = trainer_of(world, "stage1", LONG, 4)
    with torch.no_grad():
        trainer.model.model.adapter.linear_1.weight[0, 0] = float("nan")
    with pytest.raises(StepError, match=r"weights were not finite before it: 1 parameters, such as model\.adapter\."):
        trainer.run(lambda done, row: None)


def _worker(rank: int, world: dict[str, Any], config: StageConfig, parallel: str, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    execution = Execution(log_every=3, parallel=parallel)  # type: ignore[arg-type]
    trainer = trainer_of(world, "stage3", config, 2, rank=rank, execution=execution)
    bad = {ids_of(trainer, 1)[3]}  # a row of the second worker only
    poison(trainer, bad, "nan")
    try:
        trainer.run(lambda done, row: None)
        message = "no error"
    except StepError as error:
        message = str(error)
    Path(f"{out}-{rank}").write_text(f"{bad} {message}")
    dist.destroy_process_group()


@pytest.mark.parametrize("parallel", [pytest.param("ddp", marks=pytest.mark.system), "fsdp"])
def test_two_workers_agree(world: dict[str, Any], tmp_path: Path, parallel: str) -> None:
    mp.spawn(_worker, (world, LONG, parallel, str(tmp_path / "store"), str(tmp_path / "out")), nprocs=2)
    first, second = ((tmp_path / f"out-{rank}").read_text() for rank in range(2))
    assert first == second
    assert "not finite at step 2 of 6. 1 of its 4 samples" in first
    assert first.count(first[2:6]) == 2  # the poisoned sample, and its name in the message
