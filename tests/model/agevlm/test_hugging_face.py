"""AGE-VLM with the tools of transformers: save, load, generate, checkpointing, the Trainer."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DynamicCache, Trainer, TrainingArguments

from model.agevlm.attention_map import MapQuery
from model.agevlm.backbones import from_backbones, to_llama
from model.agevlm.cross_attention import ImageContext
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from tests.model.agevlm.fixtures_tiny_models import VISION, batch, guided_batch, tiny_llama, tiny_model

KINDS = ["layer", "in_block"]
GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_generation_with_caches_equals_recomputing_from_scratch(kind: str) -> None:
    model, inputs = tiny_model(trained=True, cross_attention=kind).double(), batch()
    with torch.no_grad():
        cached = model.generate(**inputs, **GREEDY, output_logits=True, return_dict_in_generate=True)
        ids = inputs["input_ids"]
        for step in range(6):  # by hand, the whole sequence anew for each token
            whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            logits = model(**whole).logits[:, -1]
            assert torch.allclose(cached.logits[step].double(), logits, rtol=0, atol=1e-5)
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        assert torch.equal(cached.sequences, ids)
        assert torch.equal(model.generate(**inputs, **GREEDY, use_cache=False), ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_static_cache_generates_the_same(kind: str, beams: int) -> None:
    model, inputs = tiny_model(trained=True, cross_attention=kind).double(), batch()
    how = {**GREEDY, "num_beams": beams}
    expected = model.generate(**inputs, **how)
    assert torch.equal(model.generate(**inputs, **how, cache_implementation="static"), expected)


def test_loss_and_logits_come_first() -> None:
    model, inputs = tiny_model(), guided_batch()
    with torch.no_grad():
        out = model(**inputs)
        assert list(out)[:2] == ["loss", "logits"]
        assert torch.equal(model(**inputs, return_dict=False)[1], out.logits)
        assert torch.equal(model(**batch(), return_dict=False)[0], out.logits)


@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_follows_the_text_to_another_device(kind: str) -> None:
    """accelerate moves a layer's tensor arguments; what travels inside our own object moves itself."""
    model, inputs = tiny_model(trained=True, cross_attention=kind), guided_batch()
    layer = model.model.language_model.layers[1].to("meta")
    visual = torch.zeros(3, 16, 32)
    image = ImageContext(inputs["cell_mask"], torch.ones(3, dtype=torch.bool))
    image.map_query = MapQuery.from_masks(inputs["query_mask"], inputs["cell_mask"], 16)
    moved = image.to(torch.device("meta"))
    query = moved.map_query
    tensors = [moved.key_mask_BS, moved.has_image_B, query.query_mask_BT, query.key_mask_BS]
    tensors += [query.tokens_BT, query.cells_BS]
    assert {t.device.type for t in tensors} == {"meta"}
    update, _ = layer.cross_attn(torch.zeros(3, 9, 32, device="meta"), visual, ImageContext(inputs["cell_mask"], None))
    assert update.device.type == "meta"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reentrant", [True, False])
def test_both_ways_of_checkpointing_give_the_same_gradients(kind: str, reentrant: bool) -> None:
    model, inputs = tiny_model(trained=True, cross_attention=kind).double().train(), guided_batch()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(**inputs, use_cache=True).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
    assert model.model.vision_tower.trunk.stages[0].grad_checkpointing
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(plain, gradients(), strict=True))


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_incomplete_weights_are_refused(damage: str, tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    if damage == "missing":
        state = load_file(file)
        del state["model.layers.1.mlp.up_proj.weight"]
        save_file(state, file, metadata={"format": "pt"})
    else:
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj" if damage == "missing" else str(tmp_path)):
        from_backbones(tmp_path, VISION)


def test_cached_steps_are_exact_and_encode_the_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny_model(trained=True).double(), batch()
    calls: list[int] = []
    encode = model.model.encode_images
    monkeypatch.setattr(model.model, "encode_images", lambda pixels: calls.append(len(pixels)) or encode(pixels))
    for cache in (None, DynamicCache()):  # also one that transformers made without our configuration
        with torch.no_grad():
            whole = model(**inputs).logits
            calls.clear()
            first = {k: v[:, :5] if k in ("input_ids", "attention_mask") else v for k, v in inputs.items()}
            out = model(**first, use_cache=True, past_key_values=cache)
            logits = [out.logits]
            for step in range(5, 9):
                out = model(
                    inputs["input_ids"][:, step : step + 1],
                    attention_mask=inputs["attention_mask"][:, : step + 1],
                    past_key_values=out.past_key_values,
                    use_cache=True,
                )
                logits.append(out.logits)
        assert torch.allclose(torch.cat(logits, 1), whole, rtol=0, atol=1e-10)
        assert calls == [3]


def test_a_left_padded_mixed_batch_generates_what_its_rows_generate() -> None:
    model, full = tiny_model(trained=True).double(), batch(rows=2)
    ids, mask = full["input_ids"].clone(), full["attention_mask"].clone()
    ids[1, :4], mask[1, :4] = 0, 0
    has_image = torch.tensor([True, False])
    cells = full["cell_mask"] & has_image[:, None]
    pixels = full["pixel_values"][:1]
    with torch.no_grad():
        together = model.generate(
            ids, attention_mask=mask, pixel_values=pixels, cell_mask=cells, has_image=has_image, **GREEDY
        )
        seeing = model.generate(full["input_ids"][:1], pixel_values=pixels, cell_mask=cells[:1], **GREEDY)
        blind = to_llama(model).double().generate(full["input_ids"][1:, 4:], **GREEDY)
    assert torch.equal(together[0, 9:], seeing[0, 9:])
    assert torch.equal(together[1, 9:], blind[0, 5:])


def test_beams_reorder_the_images_with_their_rows() -> None:
    model, inputs = tiny_model(trained=True).double(), batch()
    beams = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}
    with torch.no_grad():
        cached = model.generate(**inputs, **beams)
        assert torch.equal(cached, model.generate(**inputs, **beams, use_cache=False))
        alone = [model.generate(**{k: v[i : i + 1] for k, v in inputs.items()}, **beams) for i in range(3)]
    assert torch.equal(cached, torch.cat(alone))


def test_sampling_follows_its_seed() -> None:
    model, inputs = tiny_model(trained=True), batch()
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(model.generate(**inputs, **{**GREEDY, "do_sample": True, "top_p": 0.95}))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("kind", KINDS)
def test_shards_load_to_the_same_model_in_any_dtype(kind: str, tmp_path: Path) -> None:
    model, inputs = tiny_model(trained=True, cross_attention=kind), batch()
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert not list(tmp_path.glob("*.bin"))
    stored = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert "lm_head.weight" not in stored  # tied: stored once
    again = AgeVlmForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert again.lm_head.weight is again.model.language_model.embed_tokens.weight
    for name in ("cross_attention", "cross_attention_layers", "init", "mask_padding", "guidance_normalisation"):
        assert getattr(again.config, name) == getattr(model.config, name)
    assert again.config.vision_config.model_args == model.config.vision_config.model_args
    half = AgeVlmForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert torch.isfinite(half(**inputs).logits).all()


def test_device_map(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model = tiny_model(trained=True)
    model.save_pretrained(tmp_path)
    again = AgeVlmForConditionalGeneration.from_pretrained(tmp_path, device_map="cpu")
    with torch.no_grad():
        assert torch.equal(again(**batch()).logits, model(**batch()).logits)


def test_the_trainer_trains_it(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    rows = [{k: v[0] for k, v in guided_batch(rows=1, seed=seed % 2).items()} for seed in range(12)]
    model = tiny_model()
    options = TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        learning_rate=3e-3, logging_steps=1, save_steps=6, report_to=[], use_cpu=True, dataloader_num_workers=0,
    )  # fmt: skip
    trainer = Trainer(model=model, args=options, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    saved = AgeVlmForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-6")
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), trainer.model.cpu().parameters(), strict=True))


def test_a_saved_folder_carries_every_file_that_it_needs() -> None:
    """Files of the package import nothing of the project but each other, relatively."""
    package = Path(__file__).parents[3] / "model" / "agevlm"
    for file in package.glob("*.py"):
        for line in file.read_text().splitlines():
            assert not line.startswith(("from model", "import model", "from ..")), f"{file.name}: {line}"
