"""The configuration as tools ask for it and as `from_pretrained` overrides it, and what is written of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM

from model.agevlm.backbones import from_backbones, to_llama
from model.agevlm.configuration_agevlm import AgeVlmConfig, AgeVlmVisionConfig
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.outputs import AgeVlmOutput
from model.agevlm.processing_agevlm import AgeVlmProcessor
from tests.model.agevlm.fixtures_tiny_models import VISION, batch, guided_batch, tiny_llama, tiny_model
from tests.model.agevlm.fixtures_word_tokenizer import word_tokenizer


def test_tools_find_the_text_backbones_numbers() -> None:
    config = tiny_model().config
    for name in ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "vocab_size"):
        assert getattr(config, name) == getattr(config.text_config, name) == getattr(config.get_text_config(), name)
    assert config.num_hidden_layers == 4
    assert AgeVlmConfig.paper().num_hidden_layers == 16
    assert config.image_size == 64
    assert not {"num_hidden_layers", "image_size"} & config.to_dict().keys()  # each is written once
    config.image_size = 96
    assert config.vision_config.image_size == 96
    with pytest.raises(ValueError, match=r"image_size is 100; .*stride 16"):
        config.image_size = 100


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"image_size": 100}, r"image_size is 100; it must be a positive multiple of the encoder's stride 16"),
        ({"vision_config": {"image_size": 100}}, r"image_size is 100; .*stride 16"),
        ({"cross_attention_layers": [1, 9]}, r"cross_attention_layers is \[1, 9\], but the expanded stack has 6"),
        ({"num_hidden_layers": 2}, r"cross_attention_layers is \[1, 4\], but the expanded stack has 4"),
        ({"guidance_reduction": "max"}, "guidance_reduction is 'max'"),
        ({"guidance_weight": -1.0}, "guidance_weight is -1.0; give a finite number"),
    ],
)
def test_from_pretrained_checks_what_it_overrides(override: dict[str, Any], message: str, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    for kind in (AgeVlmConfig, AutoConfig, AgeVlmForConditionalGeneration):
        with pytest.raises(ValueError, match=message):
            kind.from_pretrained(tmp_path, **override, **({"trust_remote_code": True} if kind is AutoConfig else {}))


def test_a_larger_square_opens_the_same_weights(tmp_path: Path) -> None:
    tiny_model(trained=True).save_pretrained(tmp_path)
    larger = AgeVlmForConditionalGeneration.from_pretrained(tmp_path, image_size=96)
    inputs = {**batch(rows=1), "pixel_values": torch.randn(1, 3, 96, 96)}
    del inputs["cell_mask"]
    with torch.no_grad():
        assert larger(**inputs).visual_tokens.shape == (1, 36, 32)
    with pytest.raises(ValueError, match="image_size is 100"):
        AgeVlmVisionConfig.from_pretrained(tmp_path, image_size=100)


def test_lambda_weighs_the_guidance_loss_in_the_loss_only() -> None:
    inputs = guided_batch()
    with torch.no_grad():
        out = [tiny_model(trained=True, guidance_weight=weight).double()(**inputs) for weight in (0.0, 1.0, 2.5)]
    lm = out[0].lm_loss_sum / out[0].lm_tokens
    guidance = (out[0].guidance_loss_sum / out[0].guided_rows).mean()
    for one, weight in zip(out, (0.0, 1.0, 2.5), strict=True):
        assert torch.allclose(one.loss, lm + weight * guidance, rtol=1e-12)
        assert torch.equal(one.guidance_loss_sum, out[0].guidance_loss_sum)
    assert AgeVlmConfig.paper().guidance_weight == 1.0
    for wrong in (-0.1, float("nan"), float("inf"), "1"):
        with pytest.raises(ValueError, match="guidance_weight is"):
            tiny_model(guidance_weight=wrong)


def test_evaluation_ignores_everything_but_loss_and_logits() -> None:
    fields = set(AgeVlmOutput.__dataclass_fields__)
    assert fields - set(AgeVlmConfig.keys_to_ignore_at_inference) == {"loss", "logits"}
    assert set(AgeVlmConfig.keys_to_ignore_at_inference) <= fields


def test_no_place_of_the_makers_machine_is_written(tmp_path: Path) -> None:
    """Not of the backbone, of the folder, or of the project, however often it is opened and saved."""
    tiny_llama().save_pretrained(tmp_path / "llama")
    word_tokenizer().save_pretrained(tmp_path / "llama")
    opened = LlamaForCausalLM.from_pretrained(tmp_path / "llama")
    model = from_backbones(opened, VISION, cross_attention_layers=[1, 4])
    assert opened.config._name_or_path == str(tmp_path / "llama")
    processor = AgeVlmProcessor.from_backbones(
        type(word_tokenizer()).from_pretrained(tmp_path / "llama"), model.config.vision_config
    )
    model.config.text_config._name_or_path = str(tmp_path)  # as in a folder that was saved before this was noticed
    for round_ in ("first", "second"):
        folder = tmp_path / round_
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        to_llama(model).save_pretrained(folder / "drafting")
        texts = [file for file in folder.rglob("*") if file.suffix in (".json", ".jinja", ".py", ".md", ".txt")]
        assert {"config.json", "tokenizer_config.json", "processor_config.json"} <= {file.name for file in texts}
        for file in texts:
            text = file.read_text()
            assert str(tmp_path) not in text, file
            assert str(Path(__file__).parents[3]) not in text, file
        model = AgeVlmForConditionalGeneration.from_pretrained(folder)
        processor = AgeVlmProcessor.from_pretrained(folder)


def test_the_same_backbones_in_two_places_give_the_same_files(tmp_path: Path) -> None:
    written = []
    for place in ("here", "there"):
        tiny_llama().save_pretrained(tmp_path / place / "llama")
        model = from_backbones(tmp_path / place / "llama", VISION, cross_attention_layers=[1, 4])
        model.save_pretrained(tmp_path / place / "saved")
        written.append({file.name: file.read_bytes() for file in (tmp_path / place / "saved").iterdir()})
    assert written[0] == written[1]
