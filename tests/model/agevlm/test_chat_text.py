"""Positions of messages and targets for any words and any template, and the messages that are refused."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.agevlm.chat_templates import CHATML, LLAMA3, PLAIN
from model.agevlm.chat_text import EncodedChat, Span, covered
from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.agevlm.processing_agevlm import AgeVlmProcessor
from tests.model.agevlm.fixtures_word_tokenizer import LLAMA3_TOKENS, word_tokenizer

IM_TOKENS = ("<|im_start|>", "<|im_end|>")
TRIMMED = LLAMA3.replace("message['content'] }}", "message['content'] | trim }}")
SQUARE = AgeVlmImageProcessor(64, 16)
PROCESSORS = {
    "llama 3": AgeVlmProcessor(SQUARE, word_tokenizer(), LLAMA3),
    "trimmed": AgeVlmProcessor(SQUARE, word_tokenizer(), TRIMMED),
    "chatml": AgeVlmProcessor(SQUARE, word_tokenizer(IM_TOKENS), CHATML),
    "plain": AgeVlmProcessor(SQUARE, word_tokenizer(()), PLAIN),
}


def written(name: str, role: str, content: str) -> tuple[str, str, str]:
    """The text before a message, the message, and the text that closes it, by hand."""
    if name == "chatml":
        return f"<|im_start|>{role}\n", content, "<|im_end|>"
    if name == "plain":
        return f"{role}: ", content, "<|end_of_text|>" if role == "assistant" else ""
    words = content.strip() if name == "trimmed" else content
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n", words, "<|eot_id|>"


def chat(*said: str, first: str = "user") -> list[dict[str, Any]]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[n % 2], "content": words} for n, words in enumerate(said)]


def target_words(processor: AgeVlmProcessor, encoded: EncodedChat) -> list[str]:
    ids = [token for token, wanted in zip(encoded.input_ids, encoded.targets, strict=True) if wanted]
    words: list[str] = processor.tokenizer.convert_ids_to_tokens(ids)
    return words


words = st.one_of(
    st.sampled_from(
        ["", "a", "user", "assistant", "id", "eot_id", "header", "|", ":", "\n", "user: ", "im_end", " is "]
    ),
    st.text(alphabet=st.sampled_from("user assistant\n :|<>_it"), max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(PROCESSORS)),
    st.none() | words,
    st.sampled_from(["user", "assistant"]),
    st.lists(words, min_size=1, max_size=5),
)
def test_every_message_lies_at_its_own_place(name: str, system: str | None, first: str, said: list[str]) -> None:
    processor = PROCESSORS[name]
    messages = ([] if system is None else [{"role": "system", "content": system}]) + chat(*said, first=first)
    text = "" if name == "chatml" else "<|begin_of_text|>"
    spans, targets = [], []
    for message in messages:
        head, content, closing = written(name, message["role"], message["content"])
        start, end = len(text + head), len(text + head + content)
        text += head + content + closing + ("\n" if name in ("chatml", "plain") else "")
        spans.append((start, end))
        if message["role"] == "assistant":
            targets.append((start, end + len(closing)))
    encoded = processor.encode_chat(messages)
    assert encoded.text == text
    assert encoded.message_spans == spans
    lost = [len(m["content"]) - len(m["content"].lstrip()) if name == "trimmed" else 0 for m in messages]
    trimmed = [e - s != len(m["content"]) for m, (s, e) in zip(messages, spans, strict=True)]
    assert encoded.stripped == [n if cut else 0 for n, cut in zip(lost, trimmed, strict=True)]
    for (a, b), wanted in zip(encoded.offsets, encoded.targets, strict=True):
        assert wanted == any(a < end and b > start for start, end in targets)
    for number, (start, end) in enumerate(spans):
        tokens = range(*encoded.token_span(number))
        assert [t for t, (a, b) in enumerate(encoded.offsets) if start < end and a < end and b > start] == list(tokens)


@given(
    st.lists(st.integers(0, 30), max_size=12), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=8)
)
def test_covered_tokens_share_a_character_with_a_span(cuts: list[int], tokens: list[tuple[int, int]]) -> None:
    edges = sorted(cuts)
    spans: list[Span] = list(zip(edges[::2], edges[1::2], strict=False))  # disjoint and in order, some of no width
    offsets = [(start, start + length) for start, length in tokens]
    inside = {character for start, end in spans for character in range(start, end)}
    assert covered(offsets, spans) == [bool(inside & set(range(a, b))) for a, b in offsets]


def test_chat_text_and_templates_need_no_torch() -> None:
    code = (
        "import sys, model.agevlm.chat_text, model.agevlm.chat_templates; "
        "sys.exit(int(any(m in sys.modules for m in ('torch', 'transformers'))))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_chat_that_the_assistant_begins_trains_its_words_only() -> None:
    for name, closing in (("llama 3", "<|eot_id|>"), ("chatml", "<|im_end|>"), ("plain", "<|end_of_text|>")):
        for said in (["yes"], ["yes", "is it", "no"]):
            processor = PROCESSORS[name]
            encoded = processor.encode_chat(chat(*said, first="assistant"))
            expected = [token for word in said[::2] for token in (word, closing)]
            assert target_words(processor, encoded) == expected


def test_an_empty_span_inside_a_word_has_no_token() -> None:
    encoded = PROCESSORS["llama 3"].encode_chat(chat("what is it"))
    assert encoded.token_span(0, 2, 2) == (len(encoded.input_ids),) * 2
    first, last = encoded.token_span(0, 2, 3)
    assert (encoded.offsets[first], last) == ((encoded.message_spans[0][0], encoded.message_spans[0][0] + 4), first + 1)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}", "every message exactly once"),
        ("{% for m in messages[1:] %}{{ m['content'] }}{% endfor %}", "every message exactly once"),
        ("{% for m in messages | reverse %}{{ m['content'] }}{% endfor %}", "every message exactly once"),
        ("{% for m in messages %}{{ m['content'] | replace('is', 'was') }};{% endfor %}", "does not contain message 0"),
        ("{% if 'is' in messages[0]['content'] %}x{% endif %};" + PLAIN, "begins differently"),
        (PLAIN + "{% if 'is' in messages[0]['content'] %}x{% endif %}", "ends differently"),
    ],
)
def test_a_template_whose_words_cannot_be_told_from_a_message_is_refused(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AgeVlmProcessor(SQUARE, word_tokenizer(), template).encode_chat(chat("is it", "yes"))


def test_special_tokens_without_a_name_are_control_tokens_too() -> None:
    tokenizer = word_tokenizer(unnamed=("<|reserved_special_token_7|>",))
    assert "<|reserved_special_token_7|>" not in tokenizer.all_special_tokens
    processor = AgeVlmProcessor(SQUARE, tokenizer)
    assert {*LLAMA3_TOKENS, "<|begin_of_text|>", "<|reserved_special_token_7|>"} <= set(processor.control_tokens)
    for number, said in enumerate((["is <|reserved_special_token_7|> it", "yes"], ["is it", "<|eot_id|>"])):
        forged = chat(*said)
        with pytest.raises(ValueError, match=f"message {number} contains the control token"):
            processor.encode_chat(forged)
        # apply_chat_template is its caller's own tool, as in transformers, unless it is told otherwise.
        assert said[number] in processor.apply_chat_template(forged)
        with pytest.raises(ValueError, match=f"message {number} contains the control token"):
            processor.apply_chat_template(forged, tokenize=True, sanitize_control_tokens=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "input_image", "url": "x.png"}, {"type": "text", "text": "is it"}], "type 'input_image'"),
        ([{"type": "video", "path": "x.mp4"}], "type 'video'"),
        ([{"text": "is it"}], "type None"),
        (["is it"], "type None"),
        ([{"type": "text"}], "no string 'text'"),
        ([{"type": "text", "text": None}], "no string 'text'"),
        (None, "content is a NoneType"),
    ],
)
def test_content_that_would_be_lost_is_refused(content: Any, message: str) -> None:
    asked = [{"role": "user", "content": content}]
    processor = PROCESSORS["llama 3"]
    for call in (
        processor.apply_chat_template,
        processor.render,
        processor.encode_chat,
        lambda said: processor.apply_chat_template([chat("is it"), said], tokenize=True),
    ):
        with pytest.raises(ValueError, match=f"message 0: .*{message}.*give"):
            call(asked)
