"""FLOPs by formula against those that torch counts, part by part and stage by stage."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.agevlm import attention_map
from model.agevlm.attention_map import MapQuery
from model.agevlm.configuration_agevlm import AgeVlmConfig
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.stage_table import STAGES
from pipeline.training.flops import PartFlops, Sizes, Work, flops_per_step, mfu, peak_flops
from pipeline.training.parallel import blocks
from tests.bench.gpu import make_batch, model_of, tiny_config

PLACES = {
    "vision encoder": "model.vision_tower",
    "adapter": "model.adapter",
    "head": "lm_head",
}


def counted(model: AgeVlmForConditionalGeneration, batch: object) -> tuple[dict[str, int], dict[str, int], int]:
    """Forward operations by part, those of all layers, and all operations of forward and backward, without guidance."""
    inputs = batch.inputs()  # type: ignore[attr-defined]
    with FlopCounterMode(display=False) as forward:
        out = model(**inputs, return_logits=False, use_cache=False)
    with FlopCounterMode(display=False) as backward:
        out.lm_loss_sum.backward()
    by_module = {name: sum(ops.values()) for name, ops in forward.get_flop_counts().items()}
    prefix = type(model).__name__
    parts = {part: by_module.get(f"{prefix}.{place}", 0) for part, place in PLACES.items()}
    cross = [f"{prefix}.model.language_model.layers.{i}" for i in model.config.cross_attention_layers]
    parts["cross-attention"] = sum(by_module[name] for name in cross)
    parts["language model"] = by_module[f"{prefix}.model.language_model"] - parts["cross-attention"]
    operations = {str(op): n for op, n in backward.get_flop_counts()["Global"].items()}
    return parts, operations, backward.get_total_flops()


@pytest.mark.parametrize("stage", ["stage1", "stage3_baseline", "stage4"])
def test_the_formula_is_what_torch_counts(stage: str) -> None:
    config = tiny_config()
    row = replace(STAGES[stage], guidance_loss=False)
    model = model_of(config, row, torch.device("cpu"))
    model.set_attn_implementation("eager")  # counted as two products, as the formula has it
    batch = make_batch(config, 3, 0, 0, 24)
    rows, width = batch.input_ids.shape
    # The model computes padding too.
    work = Work(rows, rows, rows * width, batch.target_tokens, attended=rows * width**2)
    formula = flops_per_step(Sizes.of(config), row, work)
    parts, operations, total = counted(model, batch)
    assert {name: part.forward for name, part in formula.parts.items()} == parts
    # torch counts a depthwise convolution's weight gradient as that of a full one, so the encoder, which in this size
    # is all convolutions, is left out.
    ours = sum(part.backward for name, part in formula.parts.items() if name != "vision encoder")
    theirs = sum(n for op, n in operations.items() if "convolution" not in op)
    assert theirs == ours
    assert total >= theirs


def test_convolutions_of_the_encoder() -> None:
    """Their backward pass, against hand-counted products: the stem has one, all others two."""
    config, row = tiny_config(), STAGES["stage4"]
    part = flops_per_step(Sizes.of(config), row, Work(1, 1, 8, 4)).parts["vision encoder"]
    stem = 2 * (64 // 4) ** 2 * 48 * 8
    assert part.backward == 2 * part.forward - stem
    assert flops_per_step(Sizes.of(config), STAGES["stage1"], Work(1, 1, 8, 4)).parts["vision encoder"].backward == 0


def test_guidance_is_what_its_operator_computes() -> None:
    config = tiny_config()
    sizes, cells = Sizes.of(config), config.vision_config.num_cells
    queries = torch.zeros(2, 7, dtype=torch.bool)
    queries[0, :5] = True
    made = MapQuery.from_masks(queries, None, cells)
    q, k = torch.randn(2, sizes.heads, 7, sizes.head_dim), torch.randn(2, sizes.key_heads, cells, sizes.head_dim)
    arguments = (q, k, made.tokens_BT, made.cells_BS, made.sizes_B2, 0.3)
    with FlopCounterMode(display=False) as forward:
        attention_map._averaged_map._init_fn(*arguments)
    with FlopCounterMode(display=False) as backward:
        attention_map._averaged_map_backward._init_fn(torch.ones(2, cells), *arguments)
    part = flops_per_step(sizes, STAGES["stage3"], Work(2, 2, 14, 5, query_tokens=5)).parts["guidance"]
    layers = config.num_cross_attention_layers
    assert part.forward == layers * forward.get_total_flops()
    # The product of weights and one vector, 1 / E of a product, is left out of the formula.
    small = 2 * sizes.heads * 5 * cells
    assert part.backward == pytest.approx(layers * backward.get_total_flops(), abs=layers * small)


def test_recomputing_adds_the_forward_pass_of_blocks_with_a_gradient() -> None:
    sizes, work = Sizes.of(tiny_config()), Work(2, 2, 40, 20)
    plain, again = (flops_per_step(sizes, STAGES["stage4"], work, recompute) for recompute in (False, True))
    assert plain.model == again.model == plain.hardware
    assert again.parts["language model"].recompute == again.parts["language model"].forward
    assert again.parts["cross-attention"].recompute == again.parts["cross-attention"].forward
    assert again.parts["head"].recompute == again.parts["adapter"].recompute == 0
    assert flops_per_step(sizes, STAGES["stage1"], work, True).parts["vision encoder"] == PartFlops(
        plain.parts["vision encoder"].forward
    )
    assert len(blocks(model_of(tiny_config(), STAGES["stage4"], torch.device("meta")))) == 5 + 4


def test_mfu_of_known_gpus() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA RTX A4000") is None
    assert mfu(4 * 312e12, 2.0, "NVIDIA A100-PCIE-40GB", 4) == pytest.approx(0.5)
    assert mfu(1.0, 1.0, "cpu", 1) is None


def test_a_stage_of_the_paper_with_a_known_count() -> None:
    """Stage 4's products are three times those of its forward pass, but for the stem and guidance."""
    row = STAGES["stage4"]
    sizes = Sizes.of(AgeVlmConfig.paper())
    done = flops_per_step(sizes, row, Work(1, 1, 300, 100))
    forward = sum(part.forward for part in done.parts.values())
    assert done.model == 3 * forward - 2 * 192 * 192 * 48 * 192
