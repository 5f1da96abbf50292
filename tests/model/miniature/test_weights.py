"""The shipped weights: small, no pickle, opened offline by the libraries' own loaders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    LlamaForCausalLM,
)

from model.errors import ConfigError, DataError
from model.miniature.convnext import load_convnext
from model.miniature.florence import IMAGE_TOKENS, TASK
from model.miniature.sam import SamSizes, build_sam, load_sam, save_sam
from model.miniature.weights import weights_dir
from model.miniature.world import make_scene, render

LIMIT_BYTES = 8_000_000


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No access to a hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_all_weights_together_are_small_and_hold_no_pickle() -> None:
    """Under 8 MB for everything, safetensors and text only."""
    files = [path for path in weights_dir().rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".jinja"}
    assert sum(path.stat().st_size for path in files) < LIMIT_BYTES


def test_florence_opens_and_answers_in_its_format() -> None:
    """Stock model and processor, every weight found; the answer parses into polygons inside the picture."""
    folder = weights_dir() / "florence2"
    model, info = Florence2ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    processor = AutoProcessor.from_pretrained(folder)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert isinstance(processor, Florence2Processor)
    assert model.dtype == torch.float32
    scene = make_scene(7)
    picture = Image.fromarray(render(scene)[0])
    inputs = processor(text=f"{TASK}A {scene.objects[0].name}.", images=picture, return_tensors="pt")
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == IMAGE_TOKENS
    made = model.eval().generate(**inputs, max_new_tokens=80, num_beams=1, do_sample=False)
    row = processor.batch_decode(made, skip_special_tokens=False)[0]
    parsed = processor.post_process_generation(row, task=TASK, image_size=picture.size)[TASK]
    assert parsed["polygons"]
    for polygons in parsed["polygons"]:
        for points in polygons:
            assert len(points) % 2 == 0
            assert all(0 <= x < scene.width for x in points[0::2])
            assert all(0 <= y < scene.height for y in points[1::2])


def test_florence_prompts_stay_single_tokens() -> None:
    """The world's words are single tokens of its tokenizer, and any other text tokenizes and comes back."""
    tokenizer = AutoProcessor.from_pretrained(weights_dir() / "florence2").tokenizer
    assert tokenizer.tokenize(" red circle") == ["\u0120red", "\u0120circle"]
    strange = "Zw\u00f6lf Boxk\u00e4mpfer \U0001f600 <b>"
    assert tokenizer.decode(tokenizer(strange, add_special_tokens=False)["input_ids"]) == strange
    assert tokenizer.convert_tokens_to_ids("<loc_999>") - tokenizer.convert_tokens_to_ids("<loc_0>") == 999


def test_llama_opens_with_its_chat_template() -> None:
    """A tied Llama with grouped keys and values and Llama 3's template; any text survives the tokenizer."""
    folder = weights_dir() / "llama"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(model, LlamaForCausalLM)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    config = model.config
    assert config.num_hidden_layers >= 5
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.vocab_size == len(tokenizer)
    chat = [
        {"role": "user", "content": " Hi "},
        {"role": "assistant", "content": [{"type": "text", "text": "Yo"}]},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert text == (
        f"<|begin_of_text|>{head.format('user')}Hi<|eot_id|>{head.format('assistant')}Yo<|eot_id|>"
        + head.format("assistant")
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids.count(tokenizer.eos_token_id) == 2
    strange = "Zw\u00f6lf Boxk\u00e4mpfer \U0001f600 <b>"
    assert tokenizer.decode(tokenizer(strange, add_special_tokens=False)["input_ids"]) == strange


def test_a_prompt_is_a_prefix_of_its_conversation() -> None:
    """A question with the generation prompt has the first tokens of question and answer, whatever it is."""
    tokenizer = AutoTokenizer.from_pretrained(weights_dir() / "llama")
    for answer in ("Yes, there is.", "4 or 5", " spaced", "\u00c4rger", "\U0001f600"):
        asked = [{"role": "user", "content": "How many?"}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": answer}])["input_ids"]
        assert whole[: len(prompt)] == prompt, answer


def test_llama_knows_the_language_and_only_the_prior() -> None:
    """Asked without a picture it answers in a sentence of the world, and is undecided between yes and no."""
    folder = weights_dir() / "llama"
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "Is there a red circle in the image?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = tokenizer.decode(made, skip_special_tokens=True)
    assert answer in ("Yes, there is a red circle in the image.", "No, there is no red circle in the image.")
    with torch.no_grad():
        chance = model(**inputs).logits[0, -1].softmax(-1)
    yes, no = (float(chance[tokenizer.encode(word, add_special_tokens=False)[0]]) for word in ("Yes", "No"))
    assert yes + no > 0.95
    assert min(yes, no) > 0.25


def test_convnext_opens_and_gives_a_grid() -> None:
    """Pixels of 128 by 128 give a map of 8 by 8 cells of the width that config.json says."""
    folder = weights_dir() / "convnext"
    said = json.loads((folder / "config.json").read_text())
    side = said["image_size"] // said["stride"]
    pixels = torch.zeros(2, 3, said["image_size"], said["image_size"])
    with torch.no_grad():
        features = load_convnext(folder).forward_features(pixels)
    assert features.shape == (2, said["hidden_size"], side, side)


def test_sam_round_trips(tmp_path: Path) -> None:
    """A saved SAM opens the same, with the pixel statistics that segment-anything does not save."""
    torch.manual_seed(3)
    sizes = SamSizes(pixel_mean=(1.0, 2.0, 3.0))
    sam = build_sam(sizes)
    save_sam(sam, sizes, tmp_path)
    again = load_sam(tmp_path)
    assert again.pixel_mean.flatten().tolist() == [1.0, 2.0, 3.0]
    for name, value in sam.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_missing_or_wrong_files_are_named(tmp_path: Path) -> None:
    """Errors name a missing file and a wrong configuration."""
    with pytest.raises(DataError, match=r"config\.json is missing"):
        load_sam(tmp_path)
    with pytest.raises(DataError, match=r"config\.json is missing"):
        load_convnext(tmp_path)
    save_sam(build_sam(SamSizes()), SamSizes(), tmp_path)
    (tmp_path / "config.json").write_text('{"sides": 3}')
    with pytest.raises(ConfigError, match="sides"):
        load_sam(tmp_path)
