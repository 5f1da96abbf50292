"""Pictures of every kind, chats to tokens and back to characters, and the saved processor."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from model.agevlm.chat_templates import CHATML, LLAMA3, PLAIN, TEMPLATE_DAY, template_for
from model.agevlm.configuration_agevlm import AgeVlmVisionConfig
from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor, to_rgb
from model.agevlm.processing_agevlm import AgeVlmProcessor
from pipeline.training.data.guidance_cells import cell_settings
from tests.model.agevlm.fixtures_tiny_models import tiny_model
from tests.model.agevlm.fixtures_word_tokenizer import word_tokenizer

CHAT = [
    {"role": "user", "content": "what is the red circle"},
    {"role": "assistant", "content": "a red circle"},
    {"role": "user", "content": "is it red"},
    {"role": "assistant", "content": "yes"},
]
VISION = AgeVlmVisionConfig(architecture="convnext_atto", image_size=64, stride=16, hidden_size=16)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@pytest.fixture
def processor(tokenizer: PreTrainedTokenizerFast) -> AgeVlmProcessor:
    return AgeVlmProcessor.from_backbones(tokenizer, VISION)


def picture(width: int = 50, height: int = 20) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_a_letterbox_pads_with_the_mean_or_with_black() -> None:
    wide = picture()
    for letterbox, expected in (("mean", 0.0), ("zero", None)):
        out = AgeVlmImageProcessor(64, 16, letterbox)(wide, return_tensors="pt")
        corner = out["pixel_values"][0, :, 0, 0]
        if expected is None:
            black = -torch.tensor(VISION.image_mean) / torch.tensor(VISION.image_std)
            assert torch.allclose(corner, black, atol=1e-5)
        else:
            assert corner.abs().max() < 0.01  # the mean itself, up to its 8 bits
        assert out["cell_mask"].view(4, 4).tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
    squashed = AgeVlmImageProcessor(64, 16, "squash")(wide, return_tensors="pt")
    assert squashed["cell_mask"].all()
    assert squashed["pixel_values"].shape == (1, 3, 64, 64)
    assert squashed["pixel_values"].dtype == torch.float32
    with pytest.raises(ValueError, match="letterbox is 'pad'; choose one of 'mean', 'zero', 'squash'"):
        AgeVlmImageProcessor(64, 16, "pad")


def test_every_kind_of_picture_becomes_upright_rgb() -> None:
    grey16 = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert np.asarray(to_rgb(grey16))[0, 0].tolist() == [128, 128, 128]
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(to_rgb(clear))[0, 0].tolist() == [255, 255, 255]
    palette = Image.new("RGB", (4, 4), (0, 0, 255)).convert("P")
    assert np.asarray(to_rgb(palette))[0, 0].tolist() == [0, 0, 255]
    cmyk = Image.new("RGB", (4, 4), (255, 255, 255)).convert("CMYK")
    assert np.asarray(to_rgb(cmyk))[0, 0].tolist() == [255, 255, 255]
    assert np.asarray(to_rgb(np.full((3, 5), 7, dtype=np.uint8))).shape == (3, 5, 3)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right
    Image.new("RGB", (8, 4)).save(file, "JPEG", exif=exif)
    assert to_rgb(Image.open(file)).size == (4, 8)
    frames = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(frames, "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    assert np.asarray(to_rgb(Image.open(frames)))[0, 0].tolist() == [255, 0, 0]
    with pytest.raises(ValueError, match="image is a str"):
        to_rgb("photo.jpg")


def test_targets_are_the_assistants_words_and_its_end_of_turn(processor: AgeVlmProcessor) -> None:
    encoded = processor.encode_chat(CHAT)
    said = [
        processor.tokenizer.convert_ids_to_tokens(t)
        for t, w in zip(encoded.input_ids, encoded.targets, strict=True)
        if w
    ]
    assert said == ["a", "red", "circle", "<|eot_id|>", "yes", "<|eot_id|>"]
    assert [label for label in encoded.labels if label != -100] == [
        t for t, w in zip(encoded.input_ids, encoded.targets, strict=True) if w
    ]
    # What training sees is what generation sees.
    prompt = processor.apply_chat_template(CHAT[:1], add_generation_prompt=True)
    assert encoded.text.startswith(prompt)


@pytest.mark.parametrize(
    "template", [LLAMA3, CHATML, PLAIN, LLAMA3.replace("message['content'] }}", "message['content'] | trim }}")]
)
def test_character_spans_find_their_tokens_in_any_template(template: str) -> None:
    tokenizer = word_tokenizer()
    processor = AgeVlmProcessor(AgeVlmImageProcessor(64, 16), tokenizer, chat_template=template)
    spaced = [{"role": "user", "content": "  what is the red circle "}, *CHAT[1:]]
    for chat, shift in ((CHAT, 0), (spaced, 2)):
        encoded = processor.encode_chat(chat)
        first, last = encoded.token_span(0, shift + 12, shift + 22)
        assert tokenizer.convert_ids_to_tokens(encoded.input_ids[first:last]) == ["red", "circle"]
        first, last = encoded.token_span(2)
        assert tokenizer.convert_ids_to_tokens(encoded.input_ids[first:last]) == ["is", "it", "red"]
        assert encoded.token_span(1, 0, 0) == (len(encoded.input_ids),) * 2
        whole = encoded.token_span(0, 0, len(chat[0]["content"]))
        assert whole == encoded.token_span(0)
    with pytest.raises(ValueError, match="message 4"):
        encoded.token_span(4)


def test_a_template_that_rewrites_text_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    shouting = AgeVlmProcessor(
        AgeVlmImageProcessor(64, 16),
        tokenizer,
        LLAMA3.replace("message['content'] }}", "message['content'] | upper }}"),
    )
    with pytest.raises(ValueError, match="does not contain message 0"):
        shouting.encode_chat(CHAT)
    forgetful = AgeVlmProcessor(
        AgeVlmImageProcessor(64, 16), tokenizer, "{%- if messages | length > 2 %}{{- 'many ' }}{%- endif %}" + LLAMA3
    )
    with pytest.raises(ValueError, match="once later turns follow"):
        forgetful.encode_chat(CHAT)


def test_text_and_pictures_make_model_inputs(processor: AgeVlmProcessor) -> None:
    out = processor(images=[picture(), None], text=["red", "is it red"], padding=True, return_tensors="pt")
    assert out["has_image"].tolist() == [True, False]
    assert out["pixel_values"].shape == (1, 3, 64, 64)  # one per row that has one
    assert out["cell_mask"].shape == (2, 16)
    assert not out["cell_mask"][1].any()
    assert out["input_ids"].shape == out["attention_mask"].shape == (2, 3)
    with pytest.raises(ValueError, match="2 images for 1 texts"):
        processor(images=[picture(), picture()], text="red")
    with pytest.raises(ValueError, match="both missing"):
        processor()
    with pytest.raises(ValueError, match="text is empty"):
        processor(text=[])
    with pytest.raises(ValueError, match="images is empty"):
        processor(images=[], text="red")


def test_a_list_per_row_marks_text_only_rows_as_transformers_does(processor: AgeVlmProcessor) -> None:
    texts = ["red", "is it", "red"]
    expected = processor(images=[None, picture(), None], text=texts, padding=True, return_tensors="pt")
    for images in ([[], [picture()], []], [[None], picture(), []]):
        out = processor(images=images, text=texts, padding=True, return_tensors="pt")
        assert all(torch.equal(out[name], expected[name]) for name in expected)
    assert "pixel_values" not in processor(images=[[], []], text=["red", "red"])
    with pytest.raises(ValueError, match="row 1 has 2 images"):
        processor(images=[[], [picture(), picture()]], text=["red", "red"])


def test_chat_template_as_transformers_calls_it(processor: AgeVlmProcessor, tmp_path: Path) -> None:
    picture().save(tmp_path / "p.png")
    chat = [
        {
            "role": "user",
            "content": [{"type": "image", "path": str(tmp_path / "p.png")}, {"type": "text", "text": "is it red"}],
        }
    ]
    plain = [{"role": "user", "content": "is it red"}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == processor.apply_chat_template(plain, add_generation_prompt=True)
    assert text.count("<|begin_of_text|>") == 1
    out = processor.apply_chat_template(
        [chat, plain], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert out["has_image"].tolist() == [True, False]
    assert out["input_ids"].shape[0] == 2
    assert (out["input_ids"] == processor.tokenizer.bos_token_id).sum(1).tolist() == [1, 1]
    both = [{"role": "user", "content": [*chat[0]["content"], chat[0]["content"][0]]}]
    with pytest.raises(ValueError, match="has 2 images"):
        processor.apply_chat_template(both, tokenize=True)


def test_chats_that_are_to_be_answered_are_padded_on_the_left() -> None:
    model = tiny_model(trained=True).double()
    processor = AgeVlmProcessor.from_backbones(word_tokenizer(), model.config.vision_config)
    seen = {"type": "image", "image": picture()}
    said = [
        [seen, {"type": "text", "text": "is it"}],
        "what is the red circle",
        [{"type": "text", "text": "red"}, seen],
    ]
    chats = [[{"role": "user", "content": content}] for content in said]
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    greedy = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    together = processor.apply_chat_template(chats, **how)
    assert together["attention_mask"][:, -1].tolist() == [1, 1, 1]
    answers = model.generate(**together, **greedy)[:, together["input_ids"].shape[1] :]
    for row, alone in enumerate(processor.apply_chat_template(one, **how) for one in chats):
        assert torch.equal(model.generate(**alone, **greedy)[0, alone["input_ids"].shape[1] :], answers[row])
    for right in (
        processor.apply_chat_template(chats, **how, padding_side="right"),
        processor.apply_chat_template(chats, **how, processor_kwargs={"padding_side": "right"}),
        processor.apply_chat_template(chats, **{**how, "add_generation_prompt": False}),
    ):
        assert right["attention_mask"][:, 0].tolist() == [1, 1, 1]
        assert right["attention_mask"][:, -1].tolist() == [0, 1, 0]


def test_a_tokenizer_without_a_template_gets_the_one_of_its_control_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert template_for(tokenizer) == LLAMA3
    tokenizer.chat_template = "{{ messages }}"
    assert template_for(tokenizer) == "{{ messages }}"
    assert template_for(word_tokenizer(chat=("<|im_start|>", "<|im_end|>"))) == CHATML
    assert template_for(word_tokenizer(chat=())) == PLAIN


def test_saved_and_opened_again(processor: AgeVlmProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    again = AgeVlmProcessor.from_pretrained(tmp_path)
    assert again.chat_template == processor.chat_template
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    assert again.encode_chat(CHAT) == processor.encode_chat(CHAT)
    one, two = (p(images=picture(), text="red", return_tensors="pt") for p in (processor, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_template_that_writes_the_day_renders_the_same_every_day(tokenizer: PreTrainedTokenizerFast) -> None:
    """Llama 3.2's template falls back to today's date, which would differ from what was trained on."""
    dated = (
        "{%- if date_string is not defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
        "{{ date_string }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    )
    processor = AgeVlmProcessor.from_backbones(tokenizer, VISION)
    processor.chat_template = dated
    chat = [{"role": "user", "content": "hello"}]
    assert processor.render(chat) == processor.apply_chat_template(chat) == "26 Jul 2024hello"
    assert processor.apply_chat_template(chat, date_string="1 Jan 2020") == "1 Jan 2020hello"


def test_a_template_that_asks_the_clock_gets_the_same_day_in_every_format(tokenizer: PreTrainedTokenizerFast) -> None:
    processor = AgeVlmProcessor.from_backbones(tokenizer, VISION)
    chat = [{"role": "user", "content": "hello"}]
    form = "%A, %d %B %Y | %a %b %-d | %Y-%m-%d %H:%M:%S | %j %p %y | %c"
    asked = f"{{{{ strftime_now('{form}') }}}}"
    processor.chat_template = asked
    assert processor.render(chat) == processor.apply_chat_template(chat) == TEMPLATE_DAY.strftime(form)
    assert processor.apply_chat_template(chat, chat_template="{{ strftime_now('%d') }}") == "26"
    for beginning in ("\n", "  ", "  {% if true %}", "{% if true %}\n"):  # white space that Jinja may take off
        end = "{% endif %}" if "if" in beginning else ""
        processor.chat_template = beginning + "x" + end
        assert processor.render(chat) == tokenizer.apply_chat_template(
            chat, chat_template=beginning + "x" + end, tokenize=False
        )


@pytest.mark.parametrize(("earlier", "letterbox"), [("letterbox", "mean"), ("pad", "zero"), ("squash", "squash")])
def test_an_earlier_checkpoints_image_processor_is_read(tmp_path: Path, earlier: str, letterbox: str) -> None:
    AgeVlmImageProcessor(64, 16).save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    saved = json.loads(file.read_text())
    del saved["letterbox"]
    file.write_text(json.dumps({**saved, "fit": earlier}))
    processor = AgeVlmImageProcessor.from_pretrained(tmp_path)
    assert processor.letterbox == letterbox
    assert "fit" not in processor.to_dict()
    assert cell_settings(tmp_path, "any").letterbox == letterbox
