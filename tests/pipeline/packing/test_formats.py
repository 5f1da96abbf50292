"""The two templates of a pack: both agree with transformers, and spans are exact for any text."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import ConfigError
from pipeline.packing.chat import TextFormat
from pipeline.packing.config import Template
from pipeline.packing.formats import PlainFormat, open_format
from pipeline.packing.rows import Row, RowError, make_row
from pipeline.sources.conversation import query_span, turn_text
from pipeline.sources.records import Turn
from pipeline.training.data.batches import query_tokens
from pipeline.training.data.pack_reader import PackRow, Span
from tests.pipeline.packing.fixtures_tokenizer import CHATML, SPECIAL, write_backbone

ENOUGH = 4096
HARD = [  # emoji with joiners and skin tones, right-to-left text with marks, combining characters, line ends
    "A family \U0001f468\u200d\U0001f469\u200d\U0001f467 and a thumb \U0001f44d\U0001f3fd.",
    "\u0634\u062c\u0631\u0629 \u062d\u0645\u0631\u0627\u0621 \u200f(a red tree)\u200e",
    "\u05e2\u05e5 \u05d0\u05d3\u05d5\u05dd",
    "e\u0301 \u1100\u1161\u11a8 \u0915\u094d\u0937\ttab\r\nline\u2028end",
    "\ufb01\u2126\ud55c \U0001f1e9\U0001f1ea user assistant\n\nIs there",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("formats"), CHATML)


@pytest.fixture(scope="module")
def formats(folder: Path) -> dict[str, TextFormat]:
    return {"chat": open_format(str(folder), "chat"), "plain": open_format(str(folder), "plain")}


def covered(row: Row, form: TextFormat, start: int, end: int) -> str:
    """The text of the tokens that cover some characters."""
    inside = [
        token
        for token, a, b in zip(row.input_ids, row.token_starts, row.token_ends, strict=True)
        if a < end and b > start
    ]
    return form.tokenizer.decode(inside, skip_special_tokens=False)


def said(row: Row, form: TextFormat) -> str:
    """The text of the targets."""
    wanted = [token for token, target in zip(row.input_ids, row.target, strict=True) if target]
    return form.tokenizer.decode(wanted, skip_special_tokens=False)


@pytest.mark.parametrize("text", HARD)
def test_a_caption_is_tokenized_as_transformers_does(folder: Path, formats: dict[str, TextFormat], text: str) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(folder)
    row = make_row(formats["plain"], [Turn("Describe the image.", text)], ENOUGH)
    words = reference(text, add_special_tokens=False).input_ids
    assert row.input_ids == [reference.bos_token_id, *words, reference.eos_token_id]
    whole = reference.bos_token + text + reference.eos_token
    assert row.input_ids == reference(whole, add_special_tokens=False).input_ids
    assert row.target == [False] + [True] * (len(words) + 1)
    (span,) = row.turns
    assert whole[span["answer_start"] : span["answer_end"]] == text


@pytest.mark.parametrize("text", HARD)
def test_a_chat_is_tokenized_as_transformers_does(folder: Path, formats: dict[str, TextFormat], text: str) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(folder)
    # The last character has one byte: of a longer one, transformers marks the first byte's token only.
    turns = [Turn(text, "Yes."), Turn("Is there?", f"{text}.")]
    messages = [
        {"role": role, "content": words}
        for turn in turns
        for role, words in (("user", turn.question), ("assistant", turn.answer))
    ]
    encoded = reference.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    row = make_row(formats["chat"], turns, ENOUGH)
    assert row.input_ids == list(encoded["input_ids"])
    # The template marks the words of the assistant; here the token that ends its turn is a target too.
    ends = [n + 1 for n, (a, b) in enumerate(zip(row.target, [*row.target[1:], False], strict=True)) if a and not b]
    marked = [bool(mark) for mark in encoded["assistant_masks"]]
    assert [t and n + 1 not in ends for n, t in enumerate(row.target)] == marked


anything = (st.text(max_size=40).map(str.strip) | st.sampled_from(HARD)).filter(
    lambda text: not any(token in text for token in SPECIAL)
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["chat", "plain"]), anything, anything.filter(bool))
def test_spans_of_any_text_hold_its_words(
    formats: dict[str, TextFormat], template: Template, question: str, answer: str
) -> None:
    form = formats[template]
    row = make_row(form, [Turn(question, answer)], ENOUGH)
    (span,) = row.turns
    assert covered(row, form, span["answer_start"], span["answer_end"]) == answer
    assert span["question_end"] - span["question_start"] == len(question)
    shown = covered(row, form, span["question_start"], span["question_end"])
    assert shown == (question if template == "chat" else "")
    assert said(row, form) == answer + "<|eot_id|>"


@pytest.mark.parametrize("template", ["chat", "plain"])
@pytest.mark.parametrize("token", SPECIAL)
def test_special_tokens_inside_the_text_are_rejected_by_name(
    formats: dict[str, TextFormat], template: Template, token: str
) -> None:
    for turn in (Turn(f"a {token}", "b"), Turn("a", f"b{token}c")):
        with pytest.raises(RowError, match="turn 0 contains the control token") as caught:
            make_row(formats[template], [turn], ENOUGH)
        assert caught.value.reason == "control_token"
        assert token in str(caught.value)
    spaced = " ".join(token)
    assert said(make_row(formats[template], [Turn("a", spaced)], ENOUGH), formats[template]) == f"{spaced}<|eot_id|>"


def test_the_plain_template_takes_one_turn(formats: dict[str, TextFormat]) -> None:
    with pytest.raises(RowError, match="one caption, but the record has 2 turns") as caught:
        make_row(formats["plain"], [Turn("Q", "A"), Turn("Q", "B")], ENOUGH)
    assert caught.value.reason == "several_turns"
    with pytest.raises(RowError, match="takes 52 tokens, more than 51") as caught:
        make_row(formats["plain"], [Turn("Q", "x" * 50)], 51)
    assert caught.value.reason == "too_long"


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_guided_tokens_are_those_of_the_text_that_the_teachers_saw(
    formats: dict[str, TextFormat], template: Template
) -> None:
    turn, form = Turn("Is there a red circle?", "Yes, a red circle \U0001f534 here."), formats[template]
    row = make_row(form, [turn], ENOUGH)
    ids = np.array(row.input_ids)
    packed = PackRow(
        sample_id="s",
        image=b"",
        input_ids=ids,
        target=np.array(row.target),
        starts=np.array(row.token_starts),
        ends=np.array(row.token_ends),
        spans=(),
    )
    found = {}
    for kind in ("caption", "question", "question_and_answer"):
        start, end = query_span(turn, kind)
        assert turn_text(turn)[start:end]
        found[kind] = form.tokenizer.decode(ids[query_tokens(packed, Span(**row.turns[0]), start, end)].tolist())
    question = turn.question if template == "chat" else ""
    assert found == {"caption": turn.answer, "question": question, "question_and_answer": question + turn.answer}


def test_a_tokenizer_without_a_begin_of_text_token_writes_none(tmp_path: Path) -> None:
    folder = write_backbone(tmp_path)
    file = folder / "tokenizer_config.json"
    settings_ = json.loads(file.read_text())
    del settings_["bos_token"]
    file.write_text(json.dumps(settings_))
    row = make_row(PlainFormat(folder), [Turn("Q", "the image")], ENOUGH)
    assert all(row.target)
    assert row.turns[0]["answer_start"] == 0
    del settings_["eos_token"]
    file.write_text(json.dumps(settings_))
    with pytest.raises(ConfigError, match="'plain' needs an end-of-text token"):
        PlainFormat(folder)
