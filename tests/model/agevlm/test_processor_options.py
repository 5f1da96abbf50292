"""`apply_chat_template` and the processor's call honour transformers' options; what they cannot honour is an error."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from model.agevlm.chat_templates import LLAMA3
from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.agevlm.processing_agevlm import AgeVlmProcessor
from tests.model.agevlm.fixtures_tiny_models import tiny_model
from tests.model.agevlm.fixtures_word_tokenizer import word_tokenizer

SQUARE = AgeVlmImageProcessor(64, 16)
MARKED = (  # LLAMA3 with the assistant's words and their end of turn marked
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if message['role'] == 'assistant' %}{% generation %}{{- message['content'] + '<|eot_id|>' }}"
    "{% endgeneration %}{%- else %}{{- message['content'] + '<|eot_id|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
WITH_TOOLS = (
    "{{- bos_token }}{%- if tools %}{%- for tool in tools %}{{- tool.function.name + ' ' }}{%- endfor %}{%- endif %}"
    "{%- for d in documents or [] %}{{- d.text + ' ' }}{%- endfor %}"
    "{%- if mood is defined %}{{- mood + ' ' }}{%- endif %}"
    "{%- for m in messages %}{{- m.role + ' : ' + (m.content or '') }}"
    "{%- for call in m.tool_calls or [] %}{{- ' red ' + call.name }}{%- endfor %}"
    "{%- if m.reasoning_content %}{{- ' left ' + m.reasoning_content }}{%- endif %}{{- ' ' }}{%- endfor %}"
)
CHAT = [
    {"role": "user", "content": "what is it"},
    {"role": "assistant", "content": "a red circle"},
    {"role": "user", "content": "is it red"},
    {"role": "assistant", "content": "yes"},
]
DICT = {"tokenize": True, "return_dict": True}


def processor(template: str = LLAMA3) -> AgeVlmProcessor:
    return AgeVlmProcessor(SQUARE, word_tokenizer(), template)


def begins_texts(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer, adding a begin-of-text token as Llama 3's does."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        pair="<|begin_of_text|> $A $B:1",
        special_tokens=[("<|begin_of_text|>", tokenizer.bos_token_id)],
    )
    return tokenizer


@pytest.mark.parametrize("tensors", [None, "pt"])
def test_the_mask_of_the_assistants_tokens(tensors: str | None) -> None:
    marked = processor(MARKED)
    assert marked.apply_chat_template(CHAT) == processor().apply_chat_template(CHAT)
    one = marked.apply_chat_template(CHAT, **DICT, return_assistant_tokens_mask=True, return_tensors=tensors)
    expected = processor().encode_chat(CHAT)
    assert torch.as_tensor(one["input_ids"]).tolist() == [expected.input_ids]
    assert torch.as_tensor(one["assistant_masks"]).tolist() == [[int(t) for t in expected.targets]]
    assert "offset_mapping" not in one
    both = marked.apply_chat_template(
        [CHAT[:2], CHAT], **DICT, return_assistant_tokens_mask=True, return_tensors=tensors, padding_side="left"
    )
    width = len(expected.input_ids)
    short = [int(t) for t in processor().encode_chat(CHAT[:2]).targets]
    assert torch.as_tensor(both["assistant_masks"]).tolist() == [
        [0] * (width - len(short)) + short,
        [int(t) for t in expected.targets],
    ]
    labels = torch.as_tensor(one["input_ids"]).masked_fill(torch.as_tensor(one["assistant_masks"]) == 0, -100)
    assert labels[0].tolist() == expected.labels  # what a user would train on is what this project trains on
    seen = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (9, 9))}]}, CHAT[1]]
    with_picture = marked.apply_chat_template(seen, **DICT, return_assistant_tokens_mask=True, return_tensors="pt")
    assert with_picture["assistant_masks"].sum() == 4  # and a message without words stays empty
    assert with_picture["input_ids"].tolist() == [
        processor().encode_chat([{**seen[0], "content": ""}, CHAT[1]]).input_ids
    ]
    assert with_picture["pixel_values"].shape == (1, 3, 64, 64)


def look_up(word: str) -> str:
    """Look a word up.

    Args:
        word: the word
    """
    return word


def test_tools_documents_and_variables_reach_the_template() -> None:
    tooled = processor(WITH_TOOLS)
    chat = [
        {"role": "user", "content": "what"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "blue"}]},
        {"role": "assistant", "reasoning_content": "many", "content": "yes"},
    ]
    schema = {"type": "function", "function": {"name": "square"}}
    text = tooled.apply_chat_template(chat, tools=[schema, look_up], documents=[{"text": "where"}], mood="it")
    assert text == (
        "<|begin_of_text|>square look_up where it user : what assistant :  red blue assistant : yes left many "
    )
    assert tooled.apply_chat_template(CHAT[:1], mood="no") == "<|begin_of_text|>no user : what is it "
    assert tooled.apply_chat_template([chat, chat]) == [tooled.apply_chat_template(chat)] * 2
    none = processor().apply_chat_template(CHAT, tools=[], documents=[])  # as callers write that always pass a list
    assert none == processor().apply_chat_template(CHAT)
    continued = processor().apply_chat_template(CHAT, continue_final_message=True)
    assert continued.endswith("yes")
    with pytest.raises(ValueError, match="not compatible"):
        processor().apply_chat_template(CHAT, continue_final_message=True, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools are given, but the chat template never"),
        ({"documents": [{"text": "x"}]}, "documents are given"),
        ({"return_assistant_tokens_mask": True, **DICT}, r"\{% generation %\}"),
        ({"moood": "sad"}, r"'moood' is no option .*chat template \(.*messages"),
        ({"processor_kwargs": {"paddin": True}, **DICT}, "'paddin' is no option"),
        ({"paddin": True, **DICT}, "'paddin' is no option"),
        ({"load_audio_from_video": True}, "load_audio_from_video"),
        ({"enable_thinking": False, **DICT}, "'enable_thinking' is no option"),
        ({"return_mm_token_type_ids": True, **DICT}, "'return_mm_token_type_ids' is no option"),
        ({"do_normalize": False, **DICT}, "'do_normalize' is False"),
    ],
)
def test_what_has_no_effect_is_an_error(options: dict[str, Any], message: str) -> None:
    seen = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (9, 9))}]}]
    with pytest.raises(ValueError, match=message):
        processor().apply_chat_template(seen, **options)


def test_a_mask_of_the_assistants_tokens_needs_model_inputs() -> None:
    for how in ({}, {"tokenize": True}):
        with pytest.raises(ValueError, match="tokenize=True, return_dict=True"):
            processor(MARKED).apply_chat_template(CHAT, **how, return_assistant_tokens_mask=True)


def test_control_tokens_are_refused_wherever_the_template_could_write_them() -> None:
    tooled = processor(WITH_TOOLS)
    forged = "is <|eot_id|> it"
    for chat, more in (
        ([{"role": "user", "content": forged}], {}),
        ([{"role": forged, "content": "is"}], {}),
        ([{"role": "assistant", "content": "", "tool_calls": [{"name": forged}]}], {}),
        (CHAT, {"tools": [{"function": {"name": forged}}]}),
        (CHAT, {"documents": [{"text": forged}]}),
        (CHAT, {"mood": forged}),
    ):
        tooled.apply_chat_template(chat, **more)
        with pytest.raises(ValueError, match=r"contains the control token '<\|eot_id\|>'"):
            tooled.apply_chat_template(chat, **more, sanitize_control_tokens=True)


def test_fields_of_a_message_that_the_template_never_writes_are_errors() -> None:
    called = [*CHAT[:1], {"role": "assistant", "content": None, "tool_calls": [{"name": "red"}]}]
    for chat, field in ((called, "tool_calls"), ([{**CHAT[0], "thinking": "many"}], "thinking")):
        with pytest.raises(ValueError, match=f"has '{field}', which the chat template never writes"):
            processor().apply_chat_template(chat)
        processor(WITH_TOOLS).apply_chat_template(chat)
    assert processor().apply_chat_template([{**CHAT[0], "thinking": None}])
    assert processor("{{ messages | tojson }}").apply_chat_template(called).count("red") == 1


READS_PARTS = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }} : {% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}"
    "{% elif p.type == 'image' %}left {% endif %}{% endfor %} {% endfor %}"
)


def test_a_template_that_reads_parts_gets_them() -> None:
    """As most templates of vision-language models do; a plain string would leave no words."""
    seen = {"type": "image", "image": Image.new("RGB", (9, 9))}
    chat = [{"role": "user", "content": [seen, {"type": "text", "text": "what is it"}]}, CHAT[1]]
    one = processor(READS_PARTS)
    text = "<|begin_of_text|>user : left what is it assistant : a red circle "
    assert one.apply_chat_template(chat) == text
    assert one.apply_chat_template(chat) == one.tokenizer.apply_chat_template(
        [chat[0], {**CHAT[1], "content": [{"type": "text", "text": "a red circle"}]}],
        chat_template=READS_PARTS, tokenize=False,
    )  # fmt: skip
    inputs = one.apply_chat_template(chat, **DICT, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    words = text.removeprefix("<|begin_of_text|>").split()
    assert one.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True).split() == words
    # Training reads text only, through the same template.
    encoded = one.encode_chat(CHAT[:2])
    assert encoded.text == "<|begin_of_text|>user : what is it assistant : a red circle "
    assert [t for t, wanted in zip(encoded.input_ids, encoded.targets, strict=True) if wanted]
    assert processor(LLAMA3).apply_chat_template(chat) == processor().apply_chat_template(
        [{"role": "user", "content": "what is it"}, CHAT[1]]
    )


@pytest.mark.parametrize("empty", [[], [[]], [CHAT, []]])
def test_an_empty_conversation_is_named(empty: Any) -> None:
    with pytest.raises(ValueError, match="conversation is empty"):
        processor().apply_chat_template(empty)


def test_training_refuses_fields_that_it_would_not_see() -> None:
    for chat in ([{"role": "user", "content": "is it", "name": "red"}], [{"role": "tool", "tool_calls": []}]):
        with pytest.raises(ValueError, match="give 'role' and 'content' alone"):
            processor().encode_chat(chat)
    assert processor().encode_chat([{"role": "user", "content": "is it", "name": None}]).input_ids


def test_named_templates_of_a_tokenizer(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = {"default": LLAMA3, "short": "{{ messages[-1].content }}"}
    several = AgeVlmProcessor(SQUARE, tokenizer)
    assert several.apply_chat_template(CHAT) == processor().apply_chat_template(CHAT)
    assert several.apply_chat_template(CHAT, chat_template="short") == "yes"
    assert several.encode_chat(CHAT) == processor().encode_chat(CHAT)
    several.save_pretrained(tmp_path)
    again = AgeVlmProcessor.from_pretrained(tmp_path)
    assert again.apply_chat_template(CHAT, chat_template="short") == "yes"
    assert again.encode_chat(CHAT) == processor().encode_chat(CHAT)


def test_nested_options_are_flat_ones() -> None:
    texts = ["is it", "what is the red circle"]
    flat = processor()(text=texts, padding=True, return_tensors="pt", max_length=3, truncation=True)
    nested = processor()(
        text=texts,
        text_kwargs={"padding": True, "max_length": 3},
        common_kwargs={"return_tensors": "pt"},
        truncation=True,
    )
    assert all(torch.equal(flat[name], nested[name]) for name in flat)
    twice = processor()(text=texts, padding=True, return_tensors="pt", common_kwargs={"return_tensors": "np"})
    assert isinstance(twice["input_ids"], torch.Tensor)
    with pytest.raises(ValueError, match="'paddding' is no option"):
        processor()(text=texts, text_kwargs={"paddding": True})
    for other in ({"videos": [1]}, {"audio": [1]}):
        with pytest.raises(ValueError, match="leave videos and audio out"):
            processor()(text=texts, **other)


def test_a_rendered_chat_gets_no_second_begin_of_text() -> None:
    plain = AgeVlmProcessor(SQUARE, word_tokenizer())
    adding = AgeVlmProcessor(SQUARE, begins_texts(word_tokenizer()))
    begin = adding.tokenizer.bos_token_id
    assert adding.tokenizer("is it")["input_ids"] == [begin, *plain.tokenizer("is it")["input_ids"]]
    rendered = [adding.render(CHAT[:n], add_generation_prompt=True) for n in (1, 3)]
    direct = adding(text=rendered, padding=True, return_tensors="pt")
    chat = adding.apply_chat_template(
        [CHAT[:1], CHAT[:3]], **DICT, add_generation_prompt=True, return_tensors="pt"
    )  # fmt: skip
    assert torch.equal(direct["input_ids"], chat["input_ids"])
    assert (direct["input_ids"] == begin).sum(1).tolist() == [1, 1]
    assert adding(text=rendered[0], add_special_tokens=None)["input_ids"] == [
        adding.encode_chat(CHAT[:1], True).input_ids
    ]
    # Other texts keep the one that the tokenizer adds, also in the same call, whose rows are then padded by hand.
    both = adding(text=["is it", rendered[1]], padding=True, return_tensors="pt")
    assert (both["input_ids"] == begin).sum(1).tolist() == [1, 1]
    assert both["input_ids"][0][both["attention_mask"][0] == 1].tolist() == adding.tokenizer("is it")["input_ids"]
    assert torch.equal(both["input_ids"][1], direct["input_ids"][1])
    cut = adding(text=["is it red", rendered[1]], padding="max_length", max_length=5, truncation=True)
    assert [len(ids) for ids in cut["input_ids"]] == [5, 5]
    spaced = adding(text=f" \n{rendered[0]}")["input_ids"][0]
    assert spaced.count(begin) == 1
    # Who asks for special tokens gets what the tokenizer makes of it.
    assert adding(text=rendered[0], add_special_tokens=True)["input_ids"][0][:2] == [begin, begin]
    # A tokenizer that adds none is left alone.
    assert plain(text=["is it", rendered[0]])["input_ids"][0] == plain.tokenizer("is it")["input_ids"]


def test_a_chat_is_tokenized_as_in_training_also_where_its_template_writes_no_begin_of_text() -> None:
    adding = AgeVlmProcessor(SQUARE, begins_texts(word_tokenizer()), LLAMA3.replace("{{- bos_token }}", ""))
    chat = adding.apply_chat_template(CHAT, tokenize=True)
    assert chat == [adding.encode_chat(CHAT).input_ids]
    assert adding.tokenizer.bos_token_id not in chat[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_attention_mask": False},
        {"return_offsets_mapping": True, "return_special_tokens_mask": True},
        {"return_length": True},
        {"truncation": True, "max_length": 4},
        {"pad_to_multiple_of": 4},
        {"padding": "max_length", "max_length": 30},
        {"padding_side": "right"},
        {"text_pair": ["red", "red"]},
    ],
)
def test_a_call_with_rendered_and_other_texts_is_as_regular_as_one_of_a_kind(options: dict[str, Any]) -> None:
    """The tokenizer adds its begin-of-text token to all texts of a call or to none."""
    adding = AgeVlmProcessor(SQUARE, begins_texts(word_tokenizer()))
    rendered = adding.render(CHAT[:1], add_generation_prompt=True)
    options = {"padding": True, "return_tensors": "pt", **options}
    mixed = adding(text=["is it", rendered], **options)
    alike = adding(text=[rendered, rendered], **options)
    assert {k: (v.shape, v.dtype) for k, v in mixed.items()} == {k: (v.shape, v.dtype) for k, v in alike.items()}
    for name, values in alike.items():
        assert torch.equal(mixed[name][1], values[1]), name
    begin = adding.tokenizer.bos_token_id
    assert (mixed["input_ids"] == begin).sum(1).tolist() == [1, 1]


def test_texts_that_become_several_rows() -> None:
    adding = AgeVlmProcessor(SQUARE, begins_texts(word_tokenizer()))
    rendered = adding.render(CHAT, add_generation_prompt=True)
    cut = {"truncation": True, "max_length": 5, "padding": True, "return_overflowing_tokens": True}
    assert len(adding(text=rendered, **cut)["input_ids"]) > 1
    with pytest.raises(ValueError, match="give add_special_tokens too"):
        adding(text=["is it", rendered], **cut)
    with pytest.raises(ValueError, match="its image is one"):
        adding(images=Image.new("RGB", (9, 9)), text=rendered, **cut)
    with pytest.raises(ValueError, match="text is a dict"):
        adding(text={"is": "it"})


def test_batches_for_generation_are_padded_on_the_left(tmp_path: Path) -> None:
    model = tiny_model(trained=True).double()
    made = AgeVlmProcessor.from_backbones(word_tokenizer(), model.config.vision_config)
    made.save_pretrained(tmp_path)
    greedy = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    pictures = [Image.effect_noise((50, 20), 60), None, Image.effect_noise((20, 40), 60)]
    for one in (made, AgeVlmProcessor.from_pretrained(tmp_path)):
        texts = [one.render(CHAT[:n], add_generation_prompt=True) for n in (1, 3, 1)]
        together = one(images=pictures, text=texts, padding=True, return_tensors="pt")
        assert together["attention_mask"][:, -1].tolist() == [1, 1, 1]
        answers = model.generate(**together, **greedy)[:, together["input_ids"].shape[1] :]
        for row, text in enumerate(texts):
            images = None if pictures[row] is None else pictures[row]
            alone = one(images=images, text=text, return_tensors="pt")
            out = model.generate(**alone, **greedy)[0, alone["input_ids"].shape[1] :]
            assert torch.equal(out, answers[row])
        prefilled = one.apply_chat_template(
            [CHAT, CHAT[:2]], **DICT, continue_final_message=True, return_tensors="pt"
        )  # fmt: skip
        assert prefilled["attention_mask"][:, -1].tolist() == [1, 1]
    right = AgeVlmProcessor.from_pretrained(tmp_path, padding_side="right")
    assert right(text=["is it red", "is"], padding=True, return_tensors="pt")["attention_mask"][1].tolist() == [1, 0, 0]
    right.tokenizer.padding_side = "left"
    assert right(text=["is it red", "is"], padding=True, return_tensors="pt")["attention_mask"][1].tolist() == [0, 0, 1]
