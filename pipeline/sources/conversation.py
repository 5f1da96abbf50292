"""Conversations: Cambrian's (LLaVA's) raw turns are turned into cleaned questions and answers.

Character offsets of a turn refer to its text, `question + " " + answer`.
"""

from typing import Any, Literal, NamedTuple

from pipeline.sources.records import Turn

QueryKind = Literal["caption", "question", "question_and_answer"]
"""The text of a turn that is sent to Florence-2."""

IMAGE_TOKEN = "<image>"
INSTRUCTION = "Describe the image."
"""The question of a caption that comes without one."""
ROLES = ("human", "gpt")
ALIASES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
LAYOUTS = (("from", "value"), ("role", "content"))
"""The names of a message's two fields: LLaVA's, and those of chat templates."""


class BadConversation(ValueError):
    """A conversation that cannot be used; `reason` is a short name to count by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Conversation(NamedTuple):
    """A conversation that can be used."""

    turns: tuple[Turn, ...]
    asks_about_image: bool
    """True if the human's text has the image token."""
    changes: tuple[str, ...]
    """Names of what was changed: 'role_alias', 'leading_turn_dropped', 'image_token_moved' (it was not the first thing
    that the human says) and 'image_token_removed' (one more than needed, or one in an answer)."""


class _Message(NamedTuple):
    role: str
    raw: str
    text: str
    alias: bool


def clean(text: str) -> str:
    """A turn's text without image tokens and outer white space."""
    while IMAGE_TOKEN in text:  # again and again, because removing one may join the halves of another
        text = text.replace(IMAGE_TOKEN, "")
    return text.strip()


def read_conversation(conversations: Any) -> Conversation:
    """Read a raw conversation: `[{"from": "human" | "gpt", "value": text}, ...]`, or role, content, user, assistant.

    A first turn that is not from the human is dropped, as in Cambrian. Raises BadConversation with the reason
    'bad_conversation' (no list of messages with text), 'bad_roles' (unknown ones, or their order), 'empty_text' (an
    answer without words) or 'bad_text'.
    """
    if not isinstance(conversations, list) or not conversations:
        raise BadConversation("bad_conversation", "'conversations' is not a list of turns")
    messages = [_message(number, raw) for number, raw in enumerate(conversations)]
    dropped = messages[0].role != ROLES[0]
    kept = messages[1:] if dropped else messages
    for number, message in enumerate(kept):
        if message.role != ROLES[number % 2]:
            expected = ROLES[number % 2]
            raise BadConversation("bad_roles", f"turn {number} is from {message.role!r}, expected {expected!r}")
    if not kept or len(kept) % 2:
        raise BadConversation("bad_roles", "the last question has no answer" if kept else "no question")
    turns = tuple(Turn(kept[i].text, kept[i + 1].text) for i in range(0, len(kept), 2))
    for number, turn in enumerate(turns):
        if not turn.answer:
            raise BadConversation("empty_text", f"answer {number} is empty")
    asks = any(IMAGE_TOKEN in message.raw for message in kept[::2])
    changes = [
        *(["role_alias"] if any(message.alias for message in kept) else []),
        *(["leading_turn_dropped"] if dropped else []),
        *_token_changes(kept, asks),
    ]
    return Conversation(turns, asks, tuple(changes))


def _token_changes(kept: list[_Message], asks: bool) -> list[str]:
    """The changes to image tokens: exactly one stays, as the first thing that the human says."""
    tokens = sum(message.raw.count(IMAGE_TOKEN) for message in kept)
    changes = []
    if asks and not kept[0].raw.lstrip().startswith(IMAGE_TOKEN):
        changes.append("image_token_moved")
    if tokens > asks:
        changes.append("image_token_removed")
    return changes


def _message(number: int, raw: Any) -> _Message:
    """One message. A role is known by its alias; 'system' and other unknown ones are kept to be judged by order."""
    fields = raw if isinstance(raw, dict) else {}
    for role_field, text_field in LAYOUTS:
        said, value = fields.get(role_field), fields.get(text_field)
        if isinstance(said, str) and isinstance(value, str):
            break
    else:
        raise BadConversation("bad_conversation", f"turn {number} has no text fields 'from' and 'value'")
    text = clean(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # a lone surrogate: JSON can write it, UTF-8 cannot
        raise BadConversation("bad_text", f"turn {number} is no Unicode text: {error}") from error
    role = ALIASES.get(said, said)
    return _Message(role, value, text, alias=role != said or role_field != "from")


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
