"""Conversations: Cambrian's (LLaVA's) raw turns are turned into cleaned questions and answers.

Character offsets of a turn refer to its text, `question + " " + answer`.
"""

from typing import Any, Literal

from pipeline.sources.records import Turn

QueryKind = Literal["caption", "question", "question_and_answer"]
"""The text of a turn that is sent to Florence-2."""

IMAGE_TOKEN = "<image>"
ROLES = ("human", "gpt")


class BadConversation(ValueError):
    """A conversation that cannot be used; `reason` is a short name to count by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def clean(text: str) -> str:
    """A turn's text without image tokens and outer white space."""
    while IMAGE_TOKEN in text:  # again and again, because removing one may join the halves of another
        text = text.replace(IMAGE_TOKEN, "")
    return text.strip()


def read_turns(conversations: Any) -> tuple[Turn, ...]:
    """The turns of a raw conversation: `[{"from": "human" | "gpt", "value": text}, ...]`.

    A first turn that is not from the human is dropped, as in Cambrian. Raises BadConversation with the reason
    'bad_conversation' (form, roles or their order), 'empty_answer' or 'bad_text'.
    """
    if not isinstance(conversations, list) or not conversations:
        raise BadConversation("bad_conversation", "'conversations' is not a list of turns")
    messages = [_message(number, raw) for number, raw in enumerate(conversations)]
    if messages[0][0] != "human":
        messages = messages[1:]
    for number, (role, _) in enumerate(messages):
        if role != ROLES[number % 2]:
            expected = ROLES[number % 2]
            raise BadConversation("bad_conversation", f"turn {number} is from {role!r}, expected {expected!r}")
    if not messages or len(messages) % 2:
        raise BadConversation("bad_conversation", "the last question has no answer" if messages else "no question")
    turns = tuple(Turn(messages[i][1], messages[i + 1][1]) for i in range(0, len(messages), 2))
    for number, turn in enumerate(turns):
        if not turn.answer:
            raise BadConversation("empty_answer", f"answer {number} is empty")
    return turns


def _message(number: int, raw: Any) -> tuple[str, str]:
    if not isinstance(raw, dict) or not isinstance(raw.get("from"), str) or not isinstance(raw.get("value"), str):
        raise BadConversation("bad_conversation", f"turn {number} has no text fields 'from' and 'value'")
    text = clean(raw["value"])
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # a lone surrogate: JSON can write it, UTF-8 cannot
        raise BadConversation("bad_text", f"turn {number} is no Unicode text: {error}") from error
    return raw["from"], text


def asks_about_image(conversations: Any) -> bool:
    """True if a human turn has the image token. The conversation must be one that `read_turns` accepts."""
    return any(message["from"] == "human" and IMAGE_TOKEN in message["value"] for message in conversations)


def turn_text(turn: Turn) -> str:
    """The text that character offsets of a turn refer to."""
    return f"{turn.question} {turn.answer}"


def query_span(turn: Turn, kind: QueryKind) -> tuple[int, int]:
    """Characters [start, end) of a turn's text that a query of this kind sends to Florence-2.

    A caption is the answer to an instruction. A 'question' of a turn without one is an empty range.
    """
    question, whole = len(turn.question), len(turn.question) + 1 + len(turn.answer)
    if kind == "question":
        return 0, question
    if kind == "caption" or not question:
        return question + 1, whole
    return 0, whole
