"""AGE-VLM with the tools of transformers: save, load, auto classes, checkpointing, attention kernels, the Trainer."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)

from model.agevlm.attention_map import MapQuery
from model.agevlm.backbones import from_backbones
from model.agevlm.cross_attention import ImageContext
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from tests.model.agevlm.fixtures_tiny_models import VISION, VOCABULARY, batch, guided_batch, tiny_llama, tiny_model

KINDS = ["layer", "in_block"]


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


def test_evaluation_gathers_the_logits_only(tmp_path: Path) -> None:
    """At the paper's size the visual tokens alone are 4.7 MB a sample, which Trainer keeps in the host's memory."""
    pytest.importorskip("accelerate")
    rows = [{k: v[0] for k, v in guided_batch(rows=1, seed=seed).items()} for seed in range(5)]
    seen: list[EvalPrediction] = []

    def accuracy(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        shifted, labels = prediction.predictions[:, :-1].argmax(-1), prediction.label_ids[:, 1:]
        return {"accuracy": float((shifted == labels)[labels != -100].mean())}

    options = TrainingArguments(
        output_dir=str(tmp_path), per_device_eval_batch_size=2, report_to=[], use_cpu=True, dataloader_num_workers=0
    )
    model = tiny_model(trained=True)
    found = Trainer(model=model, args=options, eval_dataset=rows, compute_metrics=accuracy).evaluate()
    assert isinstance(seen[0].predictions, np.ndarray)
    assert seen[0].predictions.shape == (5, 9, VOCABULARY)
    assert seen[0].label_ids.shape == (5, 9)
    with torch.no_grad():
        logits = [model(**{k: v[None] for k, v in row.items()}).logits[0].numpy() for row in rows]
    assert np.allclose(seen[0].predictions, np.stack(logits), atol=1e-4)
    assert 0 <= found["eval_accuracy"] <= 1
    assert found["eval_loss"] > 0


def test_every_auto_class_opens_a_saved_folder(tmp_path: Path) -> None:
    model, inputs = tiny_model(trained=True), batch()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(**inputs).logits
        for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
            opened = auto.from_pretrained(tmp_path, trust_remote_code=True)
            assert torch.equal(opened(**inputs).logits, expected)
        body, report = AutoModel.from_pretrained(tmp_path, trust_remote_code=True, output_loading_info=True)
        assert not report["missing_keys"]
        assert torch.equal(model.lm_head(body(**inputs).last_hidden_state), expected)
    opened.save_pretrained(tmp_path / "again")  # a copy that is saved from there can be opened in the same ways
    again = json.loads((tmp_path / "again" / "config.json").read_text())["auto_map"]
    assert again == {
        "AutoConfig": "configuration_agevlm.AgeVlmConfig",
        "AutoModel": "modeling_agevlm.AgeVlmModel",
        "AutoModelForImageTextToText": "modeling_agevlm.AgeVlmForConditionalGeneration",
        "AutoModelForMultimodalLM": "modeling_agevlm.AgeVlmForConditionalGeneration",
    }
    body.save_pretrained(tmp_path / "body")
    AutoModel.from_pretrained(tmp_path / "body", trust_remote_code=True)


@pytest.mark.parametrize("asked", ["eager", {"": "eager"}, {"text_config": "eager"}])
def test_the_attention_implementation_is_set_without_a_warning(
    asked: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model, inputs = tiny_model(trained=True), batch()
    model.save_pretrained(tmp_path)
    opened = AgeVlmForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=asked)
    with torch.no_grad():
        plain = model(**inputs).logits
        model.set_attn_implementation(asked)
        for one in (model, opened):
            config = one.config
            names = {c._attn_implementation for c in (config, config.text_config, config.vision_config)}
            assert names == {"eager"}
            assert one.model.language_model.layers[0].self_attn.config._attn_implementation == "eager"
            assert torch.allclose(one(**inputs).logits, plain, atol=1e-3)
        model.set_attn_implementation("sdpa")
        assert torch.equal(model(**inputs).logits, plain)
    with pytest.raises(ValueError, match="no_such_kernel"):
        model.set_attn_implementation("no_such_kernel")
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("name", ["guidance_mak", "querymask", "pixel_value", "token_type_ids", "cu_seq_lens_q"])
def test_an_unknown_argument_is_refused(name: str) -> None:
    model = tiny_model()
    inputs = {**guided_batch(), name: torch.ones(3, 9, dtype=torch.bool)}
    for one in (model, model.model):
        known = {k: v for k, v in inputs.items() if one is model or k != "labels"}
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            one(**known)
    with pytest.raises((TypeError, ValueError), match=name):
        model.generate(**batch(), **{name: inputs[name]}, max_new_tokens=1)


@pytest.mark.parametrize("name", ["query_mask", "guided"])
def test_half_of_the_guidance_arguments_would_train_unguided(name: str) -> None:
    inputs = guided_batch()
    del inputs["guidance_mask"], inputs[{"query_mask": "guided", "guided": "query_mask"}[name]]
    with pytest.raises(ValueError, match=f"{name} is given without guidance_mask"):
        tiny_model()(**inputs)


def test_a_saved_folder_carries_every_file_that_it_needs() -> None:
    """Files of the package import nothing of the project but each other, relatively."""
    package = Path(__file__).parents[3] / "model" / "agevlm"
    for file in package.glob("*.py"):
        for line in file.read_text().splitlines():
            assert not line.startswith(("from model", "import model", "from ..")), f"{file.name}: {line}"
