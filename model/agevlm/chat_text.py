"""A conversation as text: which characters are whose, and which tokens they became (paper section 3.2.2, t_q).

The guidance loss needs the tokens of the very text that a mask was made from; the language loss needs the tokens that
the assistant says. Both are found by character positions in the rendered chat, so they are right for any tokenizer and
any chat template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]  # half-open, in characters or in tokens
Renderer = Callable[[list[dict[str, str]], bool], str]  # messages, with generation prompt -> text


@dataclass(frozen=True)
class EncodedChat:
    """A conversation after template and tokenizer.

    text: the rendered chat. input_ids: its tokens. offsets: per token the characters of `text` it covers, half-open.
    targets: per token, whether it is a target of the language loss (assistant turns with their end-of-turn token).
    message_spans: per message, where its text stands in `text`. stripped: characters that the template took off its
    beginning.
    """

    text: str
    input_ids: list[int]
    offsets: list[Span]
    targets: list[bool]
    message_spans: list[Span]
    stripped: list[int]

    @property
    def labels(self) -> list[int]:
        """`input_ids` where a token is a target, -100 elsewhere."""
        return [token if wanted else -100 for token, wanted in zip(self.input_ids, self.targets, strict=True)]

    def token_span(self, message: int, char_start: int = 0, char_end: int | None = None) -> Span:
        """Tokens, half-open, that cover characters [char_start, char_end) of message number `message`'s own text.

        A token counts if it covers at least one of the characters. An empty span gives (n, n).

        Raises: ValueError if the message or the characters are not there.
        """
        if not 0 <= message < len(self.message_spans):
            raise ValueError(f"message {message} is not one of the {len(self.message_spans)} in this chat")
        begin, end = self.message_spans[message]
        length = self.stripped[message] + end - begin
        stop = length if char_end is None else char_end
        # Trailing spaces that the template trimmed are nobody's tokens, so a span may end behind the trimmed text.
        if not 0 <= char_start <= stop:
            raise ValueError(f"characters {char_start}..{stop} of message {message} are no span of its text")
        first = begin + max(0, char_start - self.stripped[message])
        last = min(end, begin + max(0, stop - self.stripped[message]))
        covering = [n for n, (a, b) in enumerate(self.offsets) if a < last and b > first]
        return (covering[0], covering[-1] + 1) if covering else (len(self.input_ids), len(self.input_ids))


def plain_text(content: Any) -> str:
    """A message's text: the content itself, or its text parts joined; images never enter the text of AGE-VLM."""
    if isinstance(content, str):
        return content
    parts = [part["text"] for part in content if part.get("type") == "text"]
    return "".join(parts)


def plain_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Messages with text only, as every tokenizer's template takes them. Raises: ValueError for a malformed message."""
    plain = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise ValueError(f"message {number} is {message!r}; give a dict with 'role' and 'content'")
        plain.append({"role": str(message["role"]), "content": plain_text(message["content"])})
    return plain


def refuse_control_tokens(messages: Sequence[dict[str, str]], special_tokens: Sequence[str]) -> None:
    """Raise ValueError if a message would forge turns: its text holds one of the tokenizer's special tokens."""
    for number, message in enumerate(messages):
        for token in special_tokens:
            if token and token in message["content"]:
                raise ValueError(
                    f"message {number} contains the control token {token!r}; take it out, it would end or open a turn"
                )


def find_messages(text: str, messages: Sequence[dict[str, str]]) -> tuple[list[Span], list[int]]:
    """Where each message's (trimmed) text stands in the rendered chat, and how much was trimmed before it.

    Raises: ValueError if the template changed a message's text.
    """
    spans, stripped, cursor = [], [], 0
    for number, message in enumerate(messages):
        content = message["content"]
        # Verbatim if the template keeps the spaces around it, else trimmed as Llama 3's template does.
        start, length, taken = text.find(content, cursor), len(content), 0
        trimmed = content.strip()
        at = text.find(trimmed, cursor)
        if start < 0 or start > at + len(content) - len(content.lstrip()):
            start, length, taken = at, len(trimmed), len(content) - len(content.lstrip())
        if start < 0:
            raise ValueError(
                f"the chat template does not contain message {number} as it was given; use a template that copies "
                "the text of messages"
            )
        spans.append((start, start + length))
        stripped.append(taken)
        cursor = start + length
    return spans, stripped


def find_targets(render: Renderer, text: str, messages: list[dict[str, str]]) -> list[Span]:
    """Characters that the assistant says, each turn with its end-of-turn token.

    Found by comparing the chat up to a turn's generation prompt with the chat up to its end, which needs no support
    from the template. Raises: ValueError if the template rewrites earlier turns.
    """
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(messages[:number], True) if number else ""
        after = render(messages[: number + 1], False)
        if not (after.startswith(before) and text.startswith(after.rstrip())):
            raise ValueError(
                f"the chat template renders turn {number} differently once later turns follow; use a template "
                "whose output only grows"
            )
        spans.append((len(before), len(after.rstrip())))
    return spans


def covered(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Per token, whether it covers a character of one of the spans; tokens of no width never do."""
    return [any(a < end and b > start for start, end in spans) for a, b in offsets]


__all__ = [
    "EncodedChat",
    "covered",
    "find_messages",
    "find_targets",
    "plain_messages",
    "refuse_control_tokens",
]
