"""The loop: dividing a global batch in another way changes nothing, and it trains exactly the stage's parameters."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from model.stage_table import STAGES
from model.stages import apply_stage
from pipeline.training.config import StageConfig, StudentConfig
from pipeline.training.data.batches import Collator
from pipeline.training.data.samples import open_samples
from pipeline.training.execution import Execution
from pipeline.training.loop import StageTrainer
from pipeline.training.schedules import rate_factor
from pipeline.training.student import join_backbones
from pipeline.training.watch.metrics import METRICS, SPEED
from tests.pipeline.training.fixtures_tiny_training import ExactGuide, local_index, make_world

CONFIG = StageConfig(
    epochs=2,
    global_batch=8,
    learning_rate=3e-3,
    weight_decay=0.0,
    warmup_ratio=0.0,
    precision="fp32",
    max_steps=3,
    held_out=0,
)
EXECUTION = Execution(log_every=2)
STUDENT = StudentConfig(cross_attention_layers=(1, 4), init="normal")


@pytest.fixture(scope="module")
def world(backbones: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A pack with text-only and guided rows, and the backbones."""
    return make_world(tmp_path_factory.mktemp("pack"), backbones, STUDENT, 24)


def trainer_of(
    world: dict[str, Any],
    stage: str,
    config: StageConfig,
    micro_batch: int,
    rank: int = 0,
    execution: Execution = EXECUTION,
) -> StageTrainer:
    model, processor = join_backbones(STUDENT, world["text"], world["vision"], seed=0)
    row = STAGES[stage]
    apply_stage(model, row)
    samples = open_samples(local_index(world["pack"]), row, config, seed=0)
    guide: ExactGuide | None = world["guide"] if row.guidance_loss else None
    collate = Collator(processor.image_processor, processor.tokenizer.pad_token_id, guide)
    return StageTrainer(model, row, config, execution, samples, collate, micro_batch, rank=rank)


def trained(
    world: dict[str, Any], stage: str, micro_batch: int, rank: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Weights and metrics after the run."""
    trainer = trainer_of(world, stage, CONFIG, micro_batch, rank)
    trainer.run(lambda done, row: None)
    return trainer.model.state_dict(), trainer.log.rows


def _worker(rank: int, world: dict[str, Any], stage: str, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    weights, rows = trained(world, stage, micro_batch=3, rank=rank)
    torch.save({"weights": weights, "rows": rows}, f"{out}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("stage", [pytest.param("stage3", marks=pytest.mark.system), "stage4_lm"])
def test_dividing_a_global_batch_in_another_way_changes_nothing(
    world: dict[str, Any], stage: str, tmp_path: Path
) -> None:
    """One micro-batch, four, and two processes with two unequal ones each make the same updates."""
    whole, whole_rows = trained(world, stage, micro_batch=8)
    cut, cut_rows = trained(world, stage, micro_batch=2)
    mp.spawn(_worker, (world, stage, str(tmp_path / "store"), str(tmp_path / "out")), nprocs=2)
    ranks = [torch.load(tmp_path / f"out-{rank}.pt", weights_only=True) for rank in range(2)]
    start = trainer_of(world, stage, CONFIG, 8).model.state_dict()
    moved = [name for name in whole if not torch.equal(whole[name], start[name])]
    assert moved
    for other in (cut, ranks[0]["weights"], ranks[1]["weights"]):
        for name, value in whole.items():
            # Adam divides a gradient by its own size, so a rounding error of a tiny gradient can move a weight by a
            # visible share of the learning rate. Three steps can move a weight by 3 x 3e-3: the tolerance is far below.
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
    for a, b in zip(ranks[0]["weights"].values(), ranks[1]["weights"].values(), strict=True):
        assert torch.equal(a, b)
    for rows in (cut_rows, ranks[0]["rows"], ranks[1]["rows"]):
        for mine, theirs in zip(whole_rows, rows, strict=True):
            assert mine["guided_rows"] == theirs["guided_rows"] > 0
            for name in ("lm_loss", "guidance_loss", "gradient_norm", "attention_in_mask"):
                assert theirs[name] == pytest.approx(mine[name], rel=1e-4)


def test_gradients_of_one_step_agree_to_rounding(world: dict[str, Any]) -> None:
    """As the test above, but without Adam, so that the tolerance can be tight."""
    gradients = []
    for micro_batch in (8, 1):
        trainer = trainer_of(world, "stage4_lm", CONFIG, micro_batch)
        parts = next(trainer.micro_batches())
        trainer.optimizer.step = lambda *a, **k: None  # type: ignore[method-assign,assignment]
        trainer.step(parts, 0.0)
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_loss_is_the_mean_of_eq_3_over_guided_rows_of_the_global_batch(
    world: dict[str, Any], weight: float
) -> None:
    """Computed here: L_LM over all target tokens, plus lambda times the mean over layers of that over guided rows."""
    trainer = trainer_of(world, "stage3", CONFIG.model_copy(update={"guidance_weight": weight}), micro_batch=3)
    parts = next(trainer.micro_batches())
    reference = copy.deepcopy(trainer.model)
    tokens, rows = sum(p.target_tokens for p in parts), sum(p.guided_rows for p in parts)
    outs = [reference(**p.inputs()) for p in parts]
    language = sum(o.lm_loss_sum for o in outs) / tokens
    guidance = sum(o.guidance_loss_sum for o in outs if o.guidance_loss_sum is not None) / rows
    (language + weight * guidance.mean()).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in reference.parameters() if p.grad is not None])
    trainer.step(parts, 1e-3)
    assert rows > 1
    assert trainer.gradient_norm == pytest.approx(float(norm), rel=1e-4)


def test_memory_layout_and_fused_optimizer_change_only_rounding(world: dict[str, Any]) -> None:
    """A plain loop: the model as it was built, AdamW's simplest form, losses as sums over one whole batch."""
    trainer = trainer_of(world, "stage4_lm", CONFIG, micro_batch=8)
    reference = join_backbones(STUDENT, world["text"], world["vision"], seed=0)[0].train()
    apply_stage(reference, STAGES["stage4_lm"])
    plain = torch.optim.AdamW(
        [p for p in reference.parameters() if p.requires_grad],
        lr=3e-3,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        foreach=False,
    )
    for (part,) in trainer.micro_batches():
        for group in plain.param_groups:
            group["lr"] = 3e-3 * rate_factor(len(trainer.log.rows), 3, 0.0)
        out = reference(**part.inputs())
        plain.zero_grad()
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), CONFIG.clip_norm)
        plain.step()
        trainer.step([part], plain.param_groups[0]["lr"])
        row = trainer.log.row(len(trainer.log.rows) + 1, 0, 0.0, trainer.gradient_norm)
        assert row["lm_loss"] == pytest.approx(float(out.lm_loss_sum.detach()) / part.target_tokens, rel=1e-4)
    mine = trainer.model.state_dict()
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_a_trained_model_can_be_saved(world: dict[str, Any], tmp_path: Path) -> None:
    """Training has a memory layout of its own for convolutions; safetensors takes plain tensors only."""
    trainer = trainer_of(world, "stage2", CONFIG, 8)
    stem = trainer.model.model.vision_tower.trunk.stem[0].weight
    assert not stem.is_contiguous()
    trainer.run(lambda done, row: None)
    assert all(p.is_contiguous() for p in trainer.model.parameters())
    trainer.model.save_pretrained(tmp_path)


def test_rows_that_the_model_counts_otherwise_stop_the_run(world: dict[str, Any]) -> None:
    """The losses are divided by counts from before the forward pass, so a difference would scale them wrongly."""
    trainer = trainer_of(world, "stage3", CONFIG, 8)
    (part,) = next(trainer.micro_batches())
    trainer.step([replace(part, guided_rows=part.guided_rows + 1)], 1e-3)
    with pytest.raises(AssertionError):
        trainer.log.row(1, 8, 1e-3, trainer.gradient_norm)


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_exactly_the_stages_trainable_parameters_change(world: dict[str, Any], stage: str) -> None:
    trainer = trainer_of(world, stage, CONFIG.model_copy(update={"max_steps": 4, "epochs": 2}), micro_batch=8)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in trainer.model.named_buffers()}
    trainable = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    in_optimizer = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert in_optimizer == {id(p) for p in trainer.model.parameters() if p.requires_grad}
    trainer.run(lambda done, row: None)
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trainable
    assert all(torch.equal(b, buffers[name]) for name, b in trainer.model.named_buffers())


def test_baseline_rows_take_no_guidance(world: dict[str, Any]) -> None:
    trainer = trainer_of(world, "stage3_baseline", CONFIG, micro_batch=8)
    trainer.run(lambda done, row: None)
    assert all(r["guidance_loss"] is None and r["guided_rows"] == 0 for r in trainer.log.rows)


def test_text_only_rows_are_dropped_and_counted_where_the_language_model_is_frozen(world: dict[str, Any]) -> None:
    frozen = open_samples(local_index(world["pack"]), STAGES["stage1"], CONFIG, 0)
    assert [d[:2] for d in frozen.rejects(STAGES["stage1"])] == [(f"s{i:03d}", "text_only") for i in (0, 5, 10, 15, 20)]
    assert frozen.order.rows == 19
    whole = open_samples(local_index(world["pack"]), STAGES["stage4"], CONFIG, 0)
    assert (whole.order.rows, whole.dropped, whole.dropped_rows) == (24, {}, 0)


def test_a_run_is_reproducible_and_reports_every_step(world: dict[str, Any]) -> None:
    reports: list[tuple[int, bool]] = []
    trainer = trainer_of(world, "stage3", CONFIG, 4)
    trainer.run(lambda done, row: reports.append((done, row is not None)))
    assert reports == [(1, False), (2, True), (3, True)]
    again, rows = trained(world, "stage3", 4)
    assert all(torch.equal(value, again[name]) for name, value in trainer.model.state_dict().items())
    assert [r["lm_loss"] for r in rows] == [r["lm_loss"] for r in trainer.log.rows]
    table, speed = trainer.log.table(METRICS), trainer.log.table(SPEED)
    assert speed["step"].to_pylist() == table["step"].to_pylist()
    assert all(rate > 0 for rate in speed["tokens_per_second"].to_pylist())
    assert table["samples"].to_pylist() == [16, 24]
    assert len(table["attention_in_mask"][0].as_py()) == 2


def test_bf16_and_checkpointing_train_too(world: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update={"precision": "bf16", "activation_checkpointing": True, "max_steps": 1})
    exact = trainer_of(world, "stage4_lm", replace_precision(config), 8)
    rough = trainer_of(world, "stage4_lm", config, 8)
    for trainer in (exact, rough):
        trainer.run(lambda done, row: None)
    assert rough.log.rows[0]["lm_loss"] == pytest.approx(exact.log.rows[0]["lm_loss"], rel=0.02)
    assert rough.log.rows[0]["gradient_norm"] == pytest.approx(exact.log.rows[0]["gradient_norm"], rel=0.1)
    assert all(p.dtype == torch.float32 for p in rough.model.parameters())


def replace_precision(config: StageConfig) -> StageConfig:
    return config.model_copy(update={"precision": "fp32", "activation_checkpointing": False})


def test_a_custom_row_may_train_the_last_block_only(world: dict[str, Any]) -> None:
    model, _ = join_backbones(STUDENT, world["text"], world["vision"], seed=0)
    report = apply_stage(model, replace(STAGES["stage2"], vision_encoder="last block"))
    assert 0 < report.trainable["vision encoder"] < report.total["vision encoder"]


def test_a_guidance_weight_of_zero_leaves_the_gradient_of_the_language_loss(world: dict[str, Any]) -> None:
    trainer = trainer_of(world, "stage3", CONFIG.model_copy(update={"guidance_weight": 0.0}), micro_batch=8)
    (part,) = next(trainer.micro_batches())
    reference = copy.deepcopy(trainer.model)
    (reference(**part.inputs()).lm_loss_sum / part.target_tokens).backward()
    trainer.optimizer.step = lambda *a, **k: None  # type: ignore[method-assign,assignment]
    trainer.config = trainer.config.model_copy(update={"clip_norm": 1e9})
    trainer.step([part], 0.0)
    assert part.guided_rows
    for (name, mine), (_, other) in zip(trainer.model.named_parameters(), reference.named_parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None), name
        if mine.grad is not None and other.grad is not None:
            assert torch.equal(mine.grad, other.grad), name


def test_the_schedule_weights_each_step_also_after_a_resume(world: dict[str, Any]) -> None:
    """The factor rises from 0 at the start to 1 in the middle: weights 0, 1/3, 2/3, 1, 1, 1 of six steps, times 0.5."""
    schedule = ((0.0, 0.0), (0.5, 1.0))
    config = CONFIG.model_copy(
        update={"guidance_weight": 0.5, "guidance_schedule": schedule, "max_steps": 6, "epochs": 3, "tail": "keep"}
    )
    trainer = trainer_of(world, "stage3", config, micro_batch=4, execution=Execution(log_every=1))
    used: dict[int, torch.Tensor] = {}
    reduce = trainer.model.reduce_guidance

    def watched(sums: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The guidance loss, which notes the gradient that reaches it: lambda of the step."""
        loss = reduce(sums, rows)
        loss.register_hook(lambda gradient: used.__setitem__(trainer.done, gradient))
        return loss

    trainer.model.reduce_guidance = watched  # type: ignore[method-assign]
    trainer.run(lambda done, row: None)
    expected = [0, 0.5 / 3, 1 / 3, 0.5, 0.5, 0.5]
    assert [float(used[step]) for step in range(6)] == pytest.approx(expected)
    assert [row["guidance_weight"] for row in trainer.log.rows] == pytest.approx(expected)
    assert trainer.log.table(METRICS)["guidance_weight"].to_pylist() == pytest.approx(expected)
    assert trainer.model.config.guidance_weight == 0.5
    later = trainer_of(world, "stage3", config, micro_batch=4, execution=Execution(log_every=1))
    later.done = 2
    later.run(lambda done, row: None)
    assert [row["guidance_weight"] for row in later.log.rows] == pytest.approx(expected[2:])


def test_the_models_weight_is_that_of_its_last_guided_stage(world: dict[str, Any]) -> None:
    falling = {"guidance_weight": 2.0, "guidance_schedule": ((0.0, 1.0), (1.0, 0.0))}
    trainer = trainer_of(world, "stage3", CONFIG.model_copy(update=falling), micro_batch=8)
    assert trainer.model.config.guidance_weight == pytest.approx(2 * (1 - 2 / 3))
    unguided = trainer_of(world, "stage4", CONFIG.model_copy(update=falling), micro_batch=8)
    assert unguided.model.config.guidance_weight == 1.0
    unguided.run(lambda done, row: None)
    assert {row["guidance_weight"] for row in unguided.log.rows} == {None}
