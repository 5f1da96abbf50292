"""DDP, FSDP2, accumulation and a single process make the same gradients; nothing waits for the device."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils._python_dispatch import TorchDispatchMode

from model.agevlm.attention_map import MapQuery, query_averaged_map
from model.stage_table import STAGES
from model.stages import apply_stage
from pipeline.training.config import StageConfig, StudentConfig
from pipeline.training.data.batches import IGNORE, Batch, Collator
from pipeline.training.data.order import Address
from pipeline.training.data.samples import open_samples
from pipeline.training.execution import Execution
from pipeline.training.loop import StageTrainer
from pipeline.training.student import join_backbones
from pipeline.training.tensors import from_full, full_state, named_trained, to_full
from tests.bench.gpu import NoSamples, make_batch, model_of, tiny_config
from tests.pipeline.training.fixtures_tiny_training import ExactGuide, local_index, make_world

CONFIG = StageConfig(
    global_batch=8, weight_decay=0.0, precision="fp32", held_out=0, max_steps=1, clip_norm=1e9, length_window=1
)
STUDENT = StudentConfig(cross_attention_layers=(1, 4), init="normal")
RATE = 1e-3
# Rows 0 and 5 are text alone, of the others some even ones are guided. Per worker: the rows of its micro-batches.
Split = list[list[list[int]]]
WHOLE: Split = [[[0, 1, 2, 3, 4, 5, 6, 7]]]
CUT: Split = [[[0, 5], [2], [1, 3, 4, 6, 7]]]
UNEVEN: Split = [[[0, 5], [2, 4, 6]], [[1, 3], [7]]]  # text alone in a micro-batch; guided rows on one worker only
EMPTY: Split = [[[1, 0], [2, 4, 6, 3]], [[5, 7], []]]  # a worker without rows for its last micro-batch
CASES = [
    *[(stage, "ddp", UNEVEN) for stage in STAGES],
    *[(stage, "fsdp", UNEVEN) for stage in ("stage1", "stage3", "stage4", "stage4_lm")],
    ("stage4_lm", "ddp", EMPTY),
    ("stage4_lm", "fsdp", EMPTY),
]


@pytest.fixture(scope="module")
def world(backbones: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A pack with text-only and guided rows, and the backbones."""
    return make_world(tmp_path_factory.mktemp("pack"), backbones, STUDENT, 8)


def trainer_of(
    world: dict[str, Any],
    stage: str,
    execution: Execution,
    rank: int = 0,
    device: str = "cpu",
    double: bool = False,
    **settings: Any,
) -> StageTrainer:
    model, processor = join_backbones(STUDENT, world["text"], world["vision"], seed=0)
    if double:
        model.double()
    model.to(device)
    row, config = STAGES[stage], CONFIG.model_copy(update=settings)
    apply_stage(model, row)
    guide: ExactGuide | None = world["guide"] if row.guidance_loss else None
    collate = Collator(processor.image_processor, processor.tokenizer.pad_token_id, guide)
    # The order is not used here; stage 4 takes the rows without an image too.
    samples = open_samples(local_index(world["pack"]), STAGES["stage4"], config, seed=0)
    return StageTrainer(model, row, config, execution, samples, collate, 8, rank=rank)


def batch_of(trainer: StageTrainer, rows: list[int]) -> Batch:
    """A micro-batch; without rows a dummy of one token that is no target."""
    if rows:
        return trainer._collate([trainer.samples.reader.row(Address(0, row)) for row in rows])
    one = torch.ones(1, 1, dtype=torch.long)
    example = trainer._collate([trainer.samples.reader.row(Address(0, 0))])
    return Batch(**{
        **vars(example), "input_ids": one, "attention_mask": one, "labels": torch.full((1, 1), IGNORE),
        "target_tokens": 0, "tokens": 0,
    })  # fmt: skip


def stepped(trainer: StageTrainer, split: list[list[int]], steps: int = 1) -> dict[str, Any]:
    """Gradients and metrics of one step, and the weights after all steps."""
    parts = [batch_of(trainer, rows) for rows in split]
    trainer.step(parts, RATE)
    gradients = {name: to_full(p.grad).clone() for name, p in named_trained(trainer.model).items()}
    frozen = [name for name, p in trainer.model.named_parameters() if not p.requires_grad and p.grad is not None]
    row = trainer.log.row(1, 8, RATE, trainer.gradient_norm)
    for _ in range(steps - 1):  # DDP notices only here that a parameter had no gradient
        trainer.step(parts, RATE)
    losses = {name: row[name] for name in ("lm_loss", "guidance_loss", "gradient_norm", "guided_rows")}
    return {"gradients": gradients, "losses": losses, "weights": full_state(trainer.model), "frozen": frozen}


def _worker(rank: int, world: dict[str, Any], store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    for number, (stage, parallel, split) in enumerate(CASES):
        trainer = trainer_of(world, stage, Execution(parallel=parallel), rank, double=True)
        torch.save(stepped(trainer, split[rank], steps=2), f"{out}-{number}-{rank}.pt")
    dist.destroy_process_group()


def same(one: dict[str, Any], other: dict[str, Any], bound: float) -> None:
    """Gradients agree within a share of the largest gradient of their parameter, losses within a share of theirs."""
    assert one["gradients"].keys() == other["gradients"].keys()
    for name, gradient in one["gradients"].items():
        difference = float((other["gradients"][name] - gradient).abs().max())
        assert difference <= bound * float(gradient.abs().max()), (name, difference, float(gradient.abs().max()))
    for name, value in one["losses"].items():
        assert other["losses"][name] == (None if value is None else pytest.approx(value, rel=bound)), name


def test_ddp_fsdp_and_accumulation_make_the_gradient_of_a_single_process(world: dict[str, Any], tmp_path: Path) -> None:
    """In fp64; transformers' norms and rotary tables work in fp32, which is the rounding that is left."""
    mp.spawn(_worker, (world, str(tmp_path / "store"), str(tmp_path / "out")), nprocs=2)
    single = {}
    for stage in STAGES:
        trainer = trainer_of(world, stage, Execution(), double=True)
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        single[stage] = stepped(trainer, WHOLE[0]) | {"before": before}
        losses = single[stage]["losses"]
        assert losses["guided_rows"] == (2 if STAGES[stage].guidance_loss else 0)
    for stage in ("stage3", "stage4_lm"):
        same(single[stage], stepped(trainer_of(world, stage, Execution(), double=True), CUT[0]), 2e-6)
    for number, (stage, _, _) in enumerate(CASES):
        ranks = [torch.load(f"{tmp_path}/out-{number}-{rank}.pt", weights_only=True) for rank in range(2)]
        for rank in ranks:
            same(single[stage], rank, 2e-6)
            assert rank["frozen"] == []  # no memory for gradients of frozen parameters
        before, trained = single[stage]["before"], set(single[stage]["gradients"])
        for name, value in ranks[0]["weights"].items():
            assert torch.equal(value, ranks[1]["weights"][name])
            tied = name == "lm_head.weight" and "model.language_model.embed_tokens.weight" in trained
            assert torch.equal(value, before[name]) != (name in trained or tied), (stage, name)


@pytest.mark.parametrize("execution", [Execution(activation_checkpointing=True), Execution(parallel="fsdp")])
def test_checkpointing_and_fsdp_in_a_single_process_change_no_gradient(
    world: dict[str, Any], execution: Execution
) -> None:
    plain = stepped(trainer_of(world, "stage4_lm", Execution(), double=True), CUT[0])
    same(plain, stepped(trainer_of(world, "stage4_lm", execution, double=True), CUT[0]), 2e-6)


@pytest.mark.system
def test_compiled_blocks_share_their_graphs_and_take_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guided and unguided batches of changing sizes; the graphs run without generated code here."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    config, row = tiny_config(), STAGES["stage4_lm"]
    trainers = [
        StageTrainer(
            model_of(config, row, torch.device("cpu")), row, CONFIG, Execution(compile=compiled), NoSamples(), None, 1
        )  # type: ignore[arg-type]
        for compiled in (False, True)
    ]
    plain, compiled = trainers
    assert [n for n, _ in plain.model.named_parameters()] == [n for n, _ in compiled.model.named_parameters()]
    stats, graphs = torch._dynamo.utils.counters["stats"], []
    for number in range(6):
        batch = make_batch(config, 3 + number % 3, number % 2, number, 24)
        for trainer in trainers:
            trainer.step([batch], RATE)
        assert float(compiled.gradient_norm) == pytest.approx(float(plain.gradient_norm), rel=1e-3)
        graphs.append(stats["unique_graphs"])
    assert 0 < graphs[3] == graphs[5]
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.system
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_generated_code_changes_only_rounding(world: dict[str, Any]) -> None:
    plain = stepped(trainer_of(world, "stage3", Execution()), [[1, 2, 3, 4]])
    torch._dynamo.reset()
    same(plain, stepped(trainer_of(world, "stage3", Execution(compile=True)), [[1, 2, 3, 4]]), 1e-3)


def test_bf16_parameters_have_fp32_masters(world: dict[str, Any]) -> None:
    exact = stepped(trainer_of(world, "stage4_lm", Execution()), CUT[0])
    trainer = trainer_of(world, "stage4_lm", Execution(activation_checkpointing=True), precision="bf16_parameters")
    seen: set[torch.dtype] = set()
    layer = trainer.model.model.language_model.layers[0]
    layer.mlp.register_forward_pre_hook(lambda module, args: seen.add(module.up_proj.weight.dtype))
    out = trainer.forward(batch_of(trainer, [2, 4]))
    assert out.lm_loss_sum is not None
    assert out.guidance_loss_sum is not None
    assert out.lm_loss_sum.dtype == out.guidance_loss_sum.dtype == torch.float32
    torch.autograd.backward(0 * (out.lm_loss_sum + out.guidance_loss_sum.sum()))
    rough = stepped(trainer, CUT[0])
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in named_trained(trainer.model).values()} == {torch.float32}
    assert {s["exp_avg"].dtype for s in trainer.optimizer.state.values()} == {torch.float32}
    assert rough["losses"]["lm_loss"] == pytest.approx(exact["losses"]["lm_loss"], rel=0.02)
    assert rough["losses"]["gradient_norm"] == pytest.approx(exact["losses"]["gradient_norm"], rel=0.1)


def test_whole_tensors_go_back_into_sharded_ones(world: dict[str, Any]) -> None:
    trainer = trainer_of(world, "stage3", Execution(parallel="fsdp"))
    for parameter in named_trained(trainer.model).values():
        whole = torch.randn(parameter.shape)
        parameter.data.copy_(from_full(whole, parameter))
        assert torch.equal(to_full(parameter), whole)
        with pytest.raises(ValueError, match="does not fit"):
            from_full(whole[None], parameter)


@pytest.mark.parametrize("stage", ["stage3", "stage4_lm"])
@pytest.mark.parametrize("rows", [[1, 2, 3, 0], [1, 3, 7], [0, 5]])
def test_no_micro_batch_waits_for_the_device(world: dict[str, Any], stage: str, rows: list[int]) -> None:
    """The meta device stands for a GPU: a number, a shape or a copy that must come from it is an error there."""
    execution = Execution(activation_checkpointing=len(rows) == 4)
    trainer = trainer_of(world, stage, execution, device="meta")
    update = trainer.optimizer.step

    def without_kernel() -> None:
        for group in trainer.optimizer.param_groups:
            group["fused"], group["foreach"] = False, True  # the fused kernel has no meta form,
        del trainer.optimizer.found_inf  # type: ignore[attr-defined]  # and only it takes this
        update()

    trainer.optimizer.step = without_kernel  # type: ignore[method-assign,assignment]
    trainer.step([batch_of(trainer, rows)], RATE)
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in trainer.trainable)
    assert trainer.gradient_norm.device.type == "meta"


def test_masks_on_a_device_make_the_host_wait(world: dict[str, Any]) -> None:
    """The test above relies on this: the same batch with one mask on the device is refused."""
    trainer = trainer_of(world, "stage3", Execution(), device="meta")
    inputs = batch_of(trainer, [1, 2, 3]).to(torch.device("meta")).inputs()
    for name in ("query_mask", "labels", "attention_mask"):
        with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|Meta"):
            trainer.model(**inputs | {name: inputs[name].to("meta")}, return_logits=False, use_cache=False)


class _NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        masks = name.startswith("index") and any(
            t is not None and t.dtype == torch.bool for a in args if isinstance(a, (list, tuple)) for t in a
        )
        if name in self.REFUSED or masks:
            raise AssertionError(f"{name} makes the host wait")
        return func(*args, **(kwargs or {}))


def test_the_averaged_map_does_not_wait_inside_its_operator() -> None:
    """Its sizes are on the CPU; the meta device does not run the operator's own code."""
    from model.agevlm import attention_map

    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 6, 8)
    query = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    seen = torch.tensor([[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    made = MapQuery.from_masks(query, seen, 6)
    arguments = (q, k, made.tokens_BT, made.cells_BS, made.sizes_B2, 0.3)
    with _NoWaiting():
        forward = attention_map._averaged_map._init_fn(*arguments)
        attention_map._averaged_map_backward._init_fn(torch.ones(2, 6), *arguments)
    assert torch.equal(forward, query_averaged_map(q, k, made, 0.3))
    with _NoWaiting(), pytest.raises(AssertionError, match="makes the host wait"):
        q[:, :, query[0]].sum().item()
