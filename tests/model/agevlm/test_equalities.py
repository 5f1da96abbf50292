"""The model equals Llama, a naive loop, and itself computed row by row and step by step."""

import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from model.agevlm.backbones import from_backbones, to_llama
from model.agevlm.cross_attention import ImageContext
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from tests.model.agevlm.fixtures_tiny_models import VISION, batch, guided_batch, tiny_llama, tiny_model

KINDS = ["layer", "in_block"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_initial_model_is_its_text_backbone_bit_for_bit(kind: str) -> None:
    model, inputs = tiny_model(cross_attention=kind), batch()
    with torch.no_grad():
        expected = tiny_llama()(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_too_the_initial_model_is_its_text_backbone(kind: str, tmp_path: Path) -> None:
    """At long positions, where a rotary table in bf16 would be far off."""
    tiny_llama(max_position_embeddings=512).save_pretrained(tmp_path / "llama")
    llama = LlamaForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.bfloat16).eval()
    at = [1, 4] if kind == "layer" else [1, 3]
    model = from_backbones(
        tmp_path / "llama", VISION, dtype=torch.bfloat16, cross_attention=kind, cross_attention_layers=at
    )
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    ids = batch(rows=1, tokens=400)["input_ids"]
    with torch.no_grad():
        expected = llama(ids).logits
        assert torch.equal(model(ids).logits, expected)
        assert torch.equal(to_llama(model)(ids).logits, expected)
        model.save_pretrained(tmp_path / "saved")
        again = AgeVlmForConditionalGeneration.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16).eval()
        assert torch.equal(again(ids).logits, expected)


def test_normal_init_looks_at_the_image_from_the_start() -> None:
    model, inputs = tiny_model(init="normal"), batch()
    with torch.no_grad():
        expected = tiny_llama()(inputs["input_ids"]).logits
        assert (model(**inputs).logits - expected).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_image_a_trained_model_is_a_llama_with_its_current_weights(kind: str) -> None:
    model, inputs = tiny_model(trained=True, cross_attention=kind), batch()
    llama = to_llama(model)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        expected = llama(ids, attention_mask=mask).logits
        assert torch.equal(model(ids, attention_mask=mask).logits, expected)
        blind = model(**inputs, has_image=torch.zeros(3, dtype=torch.bool))
        assert torch.equal(blind.logits, expected)
        assert not torch.equal(model(**inputs).logits, expected)  # and with one it is not
    assert not torch.equal(llama.model.embed_tokens.weight, tiny_llama().model.embed_tokens.weight)


def test_cross_attention_against_a_naive_loop_in_fp64() -> None:
    model = tiny_model(trained=True).double()
    layer = model.model.language_model.layers[1]
    inputs = batch()
    draw = torch.Generator().manual_seed(5)
    hidden = torch.randn(3, 9, 32, generator=draw, dtype=torch.float64)
    visual = torch.randn(3, 16, 32, generator=draw, dtype=torch.float64)
    with torch.no_grad():
        got, _ = layer.cross_attn(hidden, visual, ImageContext(inputs["cell_mask"], None))
    layer.requires_grad_(False)
    ca, heads, key_heads, width = layer.cross_attn, 4, 2, 8
    for b in range(3):
        q, k, v = ca.q_proj(hidden[b]), ca.k_proj(visual[b]), ca.v_proj(visual[b])
        for t in range(9):
            heads_out = []
            for h in range(heads):
                own = slice(h * width, (h + 1) * width)
                shared = h // (heads // key_heads)
                keys = slice(shared * width, (shared + 1) * width)
                cells = [s for s in range(16) if inputs["cell_mask"][b, s]]
                scores = [math.exp(float(q[t, own] @ k[s, keys]) / math.sqrt(width)) for s in cells]
                heads_out.append(
                    sum((e / sum(scores) * v[s, keys] for e, s in zip(scores, cells, strict=True)), torch.zeros(width))
                )
            expected = ca.o_proj(torch.cat(heads_out).double())
            assert torch.allclose(got[b, t], expected, rtol=0, atol=1e-10)


def test_sdpa_and_eager_agree() -> None:
    inputs = batch()
    model = tiny_model(trained=True).double()  # eager takes its softmax in fp32 nevertheless, hence the tolerance
    with torch.no_grad():
        sdpa = model(**inputs).logits
        model.set_attn_implementation("eager")
        assert model.config.text_config._attn_implementation == "eager"
        assert torch.allclose(model(**inputs).logits, sdpa, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_a_padded_mixed_batch_equals_its_rows_one_by_one(
    kind: str, side: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = tiny_model(trained=True, cross_attention=kind).to(dtype)
    full, lengths, has_image = batch(rows=4), [9, 5, 7, 3], torch.tensor([True, False, True, True])
    ids, mask = torch.zeros(4, 9, dtype=torch.long), torch.zeros(4, 9, dtype=torch.long)
    for row, length in enumerate(lengths):
        where = slice(9 - length, 9) if side == "left" else slice(0, length)
        ids[row, where], mask[row, where] = full["input_ids"][row, :length], 1
    cells = full["cell_mask"] & has_image[:, None]
    pixels = full["pixel_values"].to(dtype)
    scale = 1.0
    with torch.no_grad():
        together = model(ids, attention_mask=mask, pixel_values=pixels, cell_mask=cells, has_image=has_image).logits
        packed = model(
            ids, attention_mask=mask, pixel_values=pixels[has_image], cell_mask=cells, has_image=has_image
        ).logits
        for row, length in enumerate(lengths):
            where = slice(9 - length, 9) if side == "left" else slice(0, length)
            alone = model(
                full["input_ids"][row : row + 1, :length],
                pixel_values=pixels[row : row + 1] if has_image[row] else None,
                cell_mask=cells[row : row + 1] if has_image[row] else None,
            ).logits[0]
            scale = max(scale, float(alone.abs().max()))
            assert (together[row, where] - alone).abs().max() <= tolerance * scale
            assert (packed[row, where] - alone).abs().max() <= tolerance * scale
    assert torch.isfinite(together).all()


def test_padded_cells_get_exactly_zero_attention() -> None:
    model, inputs = tiny_model(trained=True), guided_batch()
    with torch.no_grad():
        out = model(**inputs)
    hidden_cells = ~inputs["cell_mask"]
    assert hidden_cells.any()
    assert (out.attention_maps * hidden_cells == 0).all()
    assert (out.padding_mass_sum == 0).all()
    # And nothing else of a padded cell gets through: its visual token may be anything.
    tower = model.model.encode_images

    def spoiled(pixels: torch.Tensor) -> torch.Tensor:
        return torch.where(inputs["cell_mask"][..., None], tower(pixels), torch.tensor(1e4))

    with torch.no_grad():
        model.model.encode_images = spoiled  # type: ignore[method-assign]
        assert torch.equal(model(**inputs).logits, out.logits)


def test_with_padding_unmasked_the_mass_on_it_is_measured() -> None:
    model, inputs = tiny_model(trained=True, mask_padding=False), guided_batch()
    with torch.no_grad():
        out = model(**inputs)
    assert (out.padding_mass_sum > 0).all()
    expected = (out.attention_maps * ~inputs["cell_mask"]).sum((1, 2))
    assert torch.allclose(out.padding_mass_sum, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_text_only_rows_get_exactly_zero_and_never_nan(kind: str) -> None:
    model, inputs = tiny_model(trained=True, cross_attention=kind), guided_batch()
    inputs["has_image"] = torch.tensor([True, True, False])
    inputs["cell_mask"][2] = False
    inputs["pixel_values"][2] = 0
    with torch.no_grad():
        mixed = model(**inputs).logits[2]
        alone = to_llama(model)(inputs["input_ids"][2:]).logits[0]
    assert torch.allclose(mixed, alone, rtol=0, atol=1e-5)
    model.train()
    model(**inputs).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("with_pixels", [True, False])
def test_an_all_text_batch_trains_with_every_parameter_in_the_graph(with_pixels: bool) -> None:
    model = tiny_model(trained=True).train()
    inputs = guided_batch()
    inputs["has_image"] = torch.zeros(3, dtype=torch.bool)
    inputs["cell_mask"] = torch.zeros(3, 16, dtype=torch.bool)
    if not with_pixels:
        for name in ("pixel_values", "cell_mask", "has_image"):
            del inputs[name]
    out = model(**inputs)
    out.loss.backward()
    assert int(out.guided_rows) == 0
    assert (out.guidance_loss_sum == 0).all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        looks = name.startswith(("model.vision_tower", "model.adapter")) or "cross_att" in name
        if looks:
            assert (parameter.grad == 0).all(), name
    assert model.lm_head.weight.grad.abs().max() > 0


def test_losses_are_sums_that_add_up_over_micro_batches() -> None:
    model, inputs = tiny_model(trained=True).double(), guided_batch(rows=4)
    with torch.no_grad():
        whole = model(**inputs)
        parts = [model(**{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(4)]
    assert int(whole.guided_rows) == sum(int(p.guided_rows) for p in parts) == 3
    assert int(whole.lm_tokens) == sum(int(p.lm_tokens) for p in parts)
    for name in ("lm_loss_sum", "guidance_loss_sum", "attention_mass_sum"):
        total = sum(getattr(p, name) for p in parts)
        assert torch.allclose(getattr(whole, name), total, rtol=1e-10, atol=1e-10)
    expected = whole.lm_loss_sum / whole.lm_tokens + (whole.guidance_loss_sum / 3).mean()
    assert torch.allclose(whole.loss, expected, rtol=1e-12)


def test_guidance_reduction_sum_adds_the_layers() -> None:
    inputs = guided_batch()
    with torch.no_grad():
        mean = tiny_model(trained=True)(**inputs)
        total = tiny_model(trained=True, guidance_reduction="sum")(**inputs)
    lm = mean.lm_loss_sum / mean.lm_tokens
    assert torch.allclose(total.loss - lm, 2 * (mean.loss - lm), rtol=1e-5)


def test_the_loss_without_logits_is_the_same_loss() -> None:
    model, inputs = tiny_model(trained=True).double(), guided_batch()
    with_logits, without = model(**inputs), model(**inputs, return_logits=False)
    assert without.logits is None
    assert torch.allclose(with_logits.loss, without.loss, rtol=1e-12)
    grads = []
    for out in (with_logits, without):
        model.zero_grad()
        out.loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(*grads, strict=True))


def test_the_lm_loss_is_llamas_own() -> None:
    model, inputs = tiny_model(), guided_batch()
    with torch.no_grad():
        expected = tiny_llama()(inputs["input_ids"], labels=inputs["labels"]).loss
        out = model(**{k: v for k, v in inputs.items() if k not in ("guidance_mask", "query_mask", "guided")})
    assert torch.allclose(out.loss, expected, rtol=1e-6)


def test_a_row_whose_cells_are_all_padding_has_no_image_even_if_padding_is_not_masked() -> None:
    model, inputs = tiny_model(trained=True, mask_padding=False), batch()
    inputs["cell_mask"][2] = False
    with torch.no_grad():
        mixed = model(**inputs).logits[2]
        alone = to_llama(model)(inputs["input_ids"][2:]).logits[0]
    assert torch.allclose(mixed, alone, rtol=0, atol=1e-5)


def test_training_on_text_alone_with_a_cache_is_a_llama_step() -> None:
    model, inputs = tiny_model(trained=True).train(), batch()
    out = model(inputs["input_ids"], use_cache=True)
    assert torch.allclose(out.logits, to_llama(model)(inputs["input_ids"]).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("guided", torch.ones(2, dtype=torch.bool), r"guided has shape \(2,\); it must be \(3,\)"),
        ("has_image", torch.ones(4, dtype=torch.bool), r"has_image has shape \(4,\); it must be \(3,\)"),
        ("labels", torch.zeros(3, 5, dtype=torch.long), r"labels has shape \(3, 5\); it must be \(3, 9\)"),
        ("query_mask", torch.ones(3, 5, dtype=torch.bool), r"query_mask has shape \(3, 5\); it must be \(3, 9\)"),
        ("guidance_mask", torch.ones(2, 16, dtype=torch.bool), r"guidance_mask has shape \(2, 16\); it must be"),
        ("pixel_values", torch.zeros(3, 3, 48, 64), r"pixel_values has shape \(3, 3, 48, 64\); .* 64 x 64 pixels"),
    ],
)
def test_a_wrong_shape_is_named(name: str, value: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model()(**{**guided_batch(), name: value})


def test_attention_weights_are_not_promised() -> None:
    with pytest.raises(ValueError, match="output_attentions"):
        tiny_model()(**batch(), output_attentions=True)


def test_a_misspelt_setting_is_named() -> None:
    with pytest.raises(ValueError, match="mask_pading"):
        tiny_model(mask_pading=False)
    with pytest.raises(ValueError, match="image_sise"):
        from_backbones(tiny_llama(), {**VISION, "image_sise": 64})


def test_shapes_that_do_not_belong_together_are_named() -> None:
    model, inputs = tiny_model(), guided_batch()
    with pytest.raises(ValueError, match=r"cell_mask has shape \(3, 9\)"):
        model(**{**inputs, "cell_mask": torch.ones(3, 9, dtype=torch.bool)})
    with pytest.raises(ValueError, match="guidance_mask has 9 cells, the image has 16"):
        model(**{**inputs, "guidance_mask": torch.ones(3, 9, dtype=torch.bool)})
    with pytest.raises(ValueError, match="query_mask is missing"):
        model(**{**inputs, "query_mask": None})
    with pytest.raises(ValueError, match="2 images for 3 rows"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"][:2]})


def test_bfloat16_stays_finite_and_its_guidance_is_fp32() -> None:
    model = tiny_model(trained=True).to(torch.bfloat16).train()
    inputs = guided_batch()
    out = model(**inputs)
    assert out.attention_maps.dtype == torch.float32
    assert torch.allclose(out.attention_maps.sum(-1), torch.tensor([[1.0, 0.0, 1.0]] * 2), atol=1e-5)  # row 1: unguided
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_from_backbones_is_a_function_of_its_seed() -> None:
    one, same, other = (tiny_model(seed=0), tiny_model(seed=0), tiny_model(seed=1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.model.adapter.linear_1.weight, other.model.adapter.linear_1.weight)
    assert isinstance(one, AgeVlmForConditionalGeneration)
