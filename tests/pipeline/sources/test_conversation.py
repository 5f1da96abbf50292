"""Cleaning conversations, and the character ranges of queries."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.conversation import BadConversation, clean, query_span, read_conversation, turn_text
from pipeline.sources.records import Turn


def read_turns(raw: Any) -> tuple[Turn, ...]:
    return read_conversation(raw).turns


def said(*values: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": role, "value": value} for role, value in values]


def test_a_cambrian_conversation() -> None:
    raw = said(
        ("human", "<image>\nWhat is shown? "), ("gpt", " A dog.\n"), ("human", "Where?"), ("gpt", "On the left.")
    )
    assert read_turns(raw) == (Turn("What is shown?", "A dog."), Turn("Where?", "On the left."))


@pytest.mark.parametrize("value", ["<image>\nHi", "Hi\n<image>", "<image><image>\nHi", "<im<image>age>Hi", "  Hi  "])
def test_image_tokens_are_removed(value: str) -> None:
    assert clean(value) == "Hi"


def test_a_first_turn_that_is_not_from_the_human_is_dropped() -> None:
    body = (("human", "Q"), ("gpt", "A"))
    for role in ("system", "gpt"):
        assert read_turns(said((role, "You are helpful."), *body)) == (Turn("Q", "A"),)


def test_an_instruction_that_is_only_an_image_is_an_empty_question() -> None:
    assert read_turns(said(("human", "<image>"), ("gpt", "A cat."))) == (Turn("", "A cat."),)


BAD: dict[str, tuple[Any, str]] = {
    "none": (None, "bad_conversation"),
    "empty": ([], "bad_conversation"),
    "text": ("hello", "bad_conversation"),
    "turn is text": (["hello"], "bad_conversation"),
    "no value": ([{"from": "human"}], "bad_conversation"),
    "value is null": ([{"from": "human", "value": None}], "bad_conversation"),
    "two questions": (said(("human", "a"), ("human", "b")), "bad_roles"),
    "unknown role": (said(("human", "a"), ("robot", "b")), "bad_roles"),
    "two questions by other names": (said(("human", "a"), ("user", "b")), "bad_roles"),
    "a system turn between": (said(("human", "a"), ("system", "x"), ("gpt", "b")), "bad_roles"),
    "two leading": (said(("system", "a"), ("gpt", "b"), ("human", "q"), ("gpt", "a")), "bad_roles"),
    "no answer": (said(("human", "a")), "bad_roles"),
    "unanswered end": (said(("human", "a"), ("gpt", "b"), ("human", "c")), "bad_roles"),
    "only an answer": (said(("gpt", "b")), "bad_roles"),
    "empty answer": (said(("human", "a"), ("gpt", " <image> ")), "empty_text"),
    "lone surrogate": (said(("human", "a"), ("gpt", "b\ud800")), "bad_text"),
}


@pytest.mark.parametrize(("raw", "reason"), BAD.values(), ids=BAD.keys())
def test_bad_conversations_are_refused_with_a_reason(raw: Any, reason: str) -> None:
    with pytest.raises(BadConversation) as caught:
        read_conversation(raw)
    assert caught.value.reason == reason


words = st.text(min_size=0, max_size=40)


@given(words, words.filter(bool))
def test_spans_cut_exactly_the_words(question: str, answer: str) -> None:
    turn = Turn(question, answer)
    text = turn_text(turn)

    def cut(span: tuple[int, int]) -> str:
        return text[span[0] : span[1]]

    assert cut(query_span(turn, "caption")) == answer
    assert cut(query_span(turn, "question")) == question
    assert cut(query_span(turn, "question_and_answer")) == (f"{question} {answer}" if question else answer)


@given(st.text(alphabet=st.sampled_from("<image> \nab"), max_size=60))
def test_cleaning_leaves_no_token_and_is_idempotent(text: str) -> None:
    cleaned = clean(text)
    assert "<image>" not in cleaned
    assert clean(cleaned) == cleaned
