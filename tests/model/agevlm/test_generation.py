"""Generation: caches, beams, padding, drafting models and streaming."""

import base64
import io
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    DynamicCache,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TextIteratorStreamer,
    pipeline,
)

from model.agevlm.backbones import to_llama
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.processing_agevlm import AgeVlmProcessor
from tests.model.agevlm.fixtures_tiny_models import batch, tiny_model
from tests.model.agevlm.fixtures_word_tokenizer import WORDS, word_tokenizer

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
@pytest.mark.parametrize("draft", ["of to_llama", "saved and opened", "another AGE-VLM"])
def test_a_drafting_model_changes_the_speed_only(kind: str, draft: str, tmp_path: Path) -> None:
    model, inputs = tiny_model(trained=True, cross_attention=kind).double(), batch(rows=1)
    assistant = to_llama(model)
    if draft == "saved and opened":
        assistant.save_pretrained(tmp_path)
        assistant = LlamaForCausalLM.from_pretrained(tmp_path)
    if draft == "another AGE-VLM":
        assistant = tiny_model(seed=3, trained=True).double()
    seen: list[bool] = []
    assistant.register_forward_pre_hook(lambda _, args, kwargs: seen.append("pixel_values" in kwargs), with_kwargs=True)
    expected = model.generate(**inputs, **{**GREEDY, "max_new_tokens": 20})
    got = model.generate(**inputs, **{**GREEDY, "max_new_tokens": 20}, assistant_model=assistant)
    assert torch.equal(got, expected)
    assert seen  # it did draft
    assert not any(seen)  # transformers shows images to no drafting model


def test_prompt_lookup_changes_the_speed_only() -> None:
    model, inputs = tiny_model(trained=True).double(), batch(rows=1)
    inputs["input_ids"][0, 4:8] = inputs["input_ids"][0, :4]
    expected = model.generate(**inputs, **GREEDY)
    assert torch.equal(model.generate(**inputs, **GREEDY, prompt_lookup_num_tokens=3), expected)


@pytest.fixture
def seeing() -> tuple[AgeVlmForConditionalGeneration, AgeVlmProcessor]:
    """A model whose vocabulary is the word tokenizer's."""
    tokenizer = word_tokenizer()
    model = tiny_model(trained=True)
    model.resize_token_embeddings(len(tokenizer))
    return model, AgeVlmProcessor.from_backbones(tokenizer, model.config.vision_config)


def test_the_pipeline_of_transformers(seeing: tuple[AgeVlmForConditionalGeneration, AgeVlmProcessor]) -> None:
    model, processor = seeing
    ask = pipeline("image-text-to-text", model=model, processor=processor)
    noise = [Image.effect_noise(size, 60) for size in ((50, 20), (20, 40))]
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}]
        for picture, text in zip(noise, ("is it red", "what is the blue square"), strict=True)
    ]
    greedy = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    alone = [ask(text=chat, generate_kwargs=greedy, return_full_text=False)[0]["generated_text"] for chat in chats]
    assert all(set(text.split()) <= {*WORDS, "<unk>"} for text in alone)
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    for chat, text in zip(chats, alone, strict=True):
        inputs = processor.apply_chat_template(chat, **how)
        out = model.generate(**inputs, **greedy)[0, inputs["input_ids"].shape[1] :]
        assert processor.decode(out, skip_special_tokens=True).split() == text.split()
    # A batch of rendered chats: padded on the left, so each row continues at its end.
    texts = [processor.render([{"role": "user", "content": c[0]["content"][1]["text"]}], True) for c in chats]
    together = ask(images=noise, text=texts, generate_kwargs=greedy, return_full_text=False)
    assert [one[0]["generated_text"] if isinstance(one, list) else one["generated_text"] for one in together] == alone
    openai = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(noise[0])}},
                                           {"type": "text", "text": "is it red"}]}]  # fmt: skip
    assert ask(text=openai, generate_kwargs=greedy, return_full_text=False)[0]["generated_text"] == alone[0]


def data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_the_tokenizer_of_stop_strings_reaches_generate_alone(
    seeing: tuple[AgeVlmForConditionalGeneration, AgeVlmProcessor],
) -> None:
    """`generate` hands the tokenizer on to the model's forward, which knows no such argument."""
    model, _ = seeing
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    byte_level.pre_tokenizer, byte_level.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level)
    ids, how = torch.tensor([[1, 7, 8]]), {"max_new_tokens": 4, "pad_token_id": 0, "do_sample": False}
    plain = model.generate(ids, **how)
    assert torch.equal(model.generate(ids, **how, stop_strings=["~~"], tokenizer=tokenizer), plain)
    with pytest.raises(TypeError, match="unexpected keyword argument 'tokenizer'"):
        model(ids, tokenizer=tokenizer)


def test_an_answer_can_be_streamed(seeing: tuple[AgeVlmForConditionalGeneration, AgeVlmProcessor]) -> None:
    model, processor = seeing
    inputs = processor(images=Image.effect_noise((50, 20), 60), text="is it red", return_tensors="pt")
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    thread = threading.Thread(target=model.generate, kwargs={**inputs, **GREEDY, "streamer": streamer})
    thread.start()
    text = "".join(streamer)
    thread.join()
    expected = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    assert text.split() == processor.decode(expected).split()
