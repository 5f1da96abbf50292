"""Character and token positions of each message in a rendered chat (paper section 3.2.2, t_q).

The guidance loss needs the tokens of the text that a mask was made from; the language loss needs the tokens that the
assistant says. Both are found by character positions in the rendered chat, so they are right for any tokenizer and any
chat template. The positions are computed, not searched for: the same roles are rendered with marks in place of the
words, which shows what the template itself writes.

Packing writes its rows with these functions, so nothing here imports torch or transformers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]  # half-open, in characters or in tokens
Message = dict[str, str]  # role, content
LONGEST_SHOWN = 80  # characters of a value in an error
MARK = "\ue000{number}\ue001"  # private-use characters: in no template


@dataclass(frozen=True)
class EncodedChat:
    """A conversation after template and tokenizer.

    text: the rendered chat. input_ids: its tokens. offsets: per token the characters of `text` it covers, half-open.
    targets: per token, True if it is a target of the language loss (assistant turns with their end-of-turn token).
    message_spans: per message, the characters of `text` that hold its words. stripped: per message, the number of
    characters that the template took off its beginning.
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
        # Trailing spaces that the template trimmed have no tokens, so a span may end behind the trimmed text.
        if not 0 <= char_start <= stop:
            raise ValueError(f"characters {char_start}..{stop} of message {message} are no span of its text")
        first = begin + max(0, char_start - self.stripped[message])
        last = min(end, begin + max(0, stop - self.stripped[message]))
        covering = [n for n, (a, b) in enumerate(self.offsets) if max(a, first) < min(b, last)]
        return (covering[0], covering[-1] + 1) if covering else (len(self.input_ids), len(self.input_ids))


def shortened(value: Any) -> str:
    """A value for an error, cut to a readable length: a picture in the wrong place has millions of characters."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]}... ({len(text)} characters)"


def plain_text(content: Any) -> str:
    """A message's text: the content itself, or its text parts joined; images never enter the text of AGE-VLM.

    Raises: ValueError for a part that is neither text nor image, which would be dropped silently.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"content is a {type(content).__name__}; give a string or a list of parts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind not in ("image", "image_url"):
            what = (
                "holds no string 'text'"
                if kind == "text"
                else f"is of type {shortened(kind)}, which AGE-VLM cannot read"
            )
            raise ValueError(
                f'a content part {what}; give {{"type": "text", "text": ...}}, or a picture as '
                '{"type": "image", "image": ...} with "path", "url" or "base64" in place of "image" if it is to be '
                "opened"
            )
    return "".join(texts)


def text_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose content is text, as every tokenizer's template takes it; their other fields are kept.

    As in transformers a field that is None counts as missing. A message with tool calls needs no content.

    Raises: ValueError for a malformed message, without repeating what it holds.
    """
    plain = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f"message {number} is a {type(message).__name__}; give a dict with 'role' and 'content'")
        fields = {name: value for name, value in message.items() if value is not None}
        if "role" not in fields or not message.keys() - {"role"}:
            raise ValueError(
                f"message {number} has {shortened(sorted(map(str, fields)))}; give a dict with 'role' and 'content'"
            )
        fields["role"] = str(fields["role"])
        if "content" in fields or fields.keys() == {"role"}:
            try:
                fields["content"] = plain_text(fields.get("content"))
            except ValueError as error:
                raise ValueError(f"message {number}: {error}") from None
        plain.append(fields)
    return plain


def plain_messages(messages: Sequence[dict[str, Any]]) -> list[Message]:
    """Messages of role and text alone, as training knows them.

    Raises: ValueError for a malformed message, or one with further fields: a template may write them.
    """
    plain = text_messages(messages)
    for number, message in enumerate(plain):
        if message.keys() != {"role", "content"}:
            raise ValueError(
                f"message {number} has the fields {shortened(sorted(message))}; give 'role' and 'content' alone"
            )
    return plain


def refuse_control_tokens(messages: Sequence[dict[str, Any]], control_tokens: Iterable[str]) -> None:
    """Raise ValueError if a message would forge turns: a text in it holds one of the tokenizer's control tokens."""
    tokens = [token for token in control_tokens if token]
    for number, message in enumerate(messages):
        refuse_control_tokens_in(f"message {number}", message, tokens)


def refuse_control_tokens_in(what: str, value: Any, control_tokens: Iterable[str]) -> None:
    """Raise ValueError if a string anywhere in `value` (lists, dicts and their keys) holds a control token."""
    if isinstance(value, str):
        found = next((token for token in control_tokens if token in value), None)
        if found is not None:
            raise ValueError(f"{what} contains the control token {found!r}; take it out, it would end or open a turn")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            refuse_control_tokens_in(what, [name, item], control_tokens)
    elif isinstance(value, (list, tuple)):
        for item in value:
            refuse_control_tokens_in(what, item, control_tokens)


def chat_frame(render: Callable[[list[Message]], str], roles: Sequence[str]) -> tuple[str, ...]:
    """The strings that a template writes before, between and after the messages of these roles: one more than messages.

    Raises: ValueError if the template does not write every message exactly once and in order.
    """
    marks = [MARK.format(number=number) for number in range(len(roles))]
    rest = render([{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)])
    literals = []
    for mark in marks:
        literal, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise ValueError("the chat template does not write every message exactly once")
        literals.append(literal)
    return (*literals, rest)


def place_words(text: str, frame: Sequence[str], words: Sequence[str], trimmed: bool = True) -> list[Span]:
    """The characters of a rendered chat that hold the words of each message.

    With `trimmed`, a template may take white space off both ends of a message, as Llama 3's does; the span is that of
    the rest. Raises: ValueError if the template changed the words.
    """
    spans: list[Span] = []
    position = len(frame[0])
    if not text.startswith(frame[0]):
        raise ValueError("the chat template begins differently before these messages than before others")
    for number, (word, after) in enumerate(zip(words, frame[1:], strict=True)):
        forms = (word, word.strip()) if trimmed else (word,)
        kept = next((form for form in forms if text.startswith(form + after, position)), None)
        if kept is None:
            raise ValueError(
                f"the chat template does not contain message {number} as it was given; use a template that copies "
                "the text of messages"
            )
        spans.append((position, position + len(kept)))
        position += len(kept) + len(after)
    if position != len(text):
        raise ValueError("the chat template ends differently after these messages than after others")
    return spans


def place_targets(frame: Sequence[str], spans: Sequence[Span], said: Iterable[int], closing: str) -> list[Span]:
    """The spans of the messages with the numbers `said`, each with the end of turn `closing` if that follows it."""
    return [
        (spans[number][0], spans[number][1] + (len(closing) if frame[number + 1].startswith(closing) else 0))
        for number in said
    ]


def covered(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Per token, True if it covers a character of one of the spans; tokens and spans of no width never do.

    The spans are disjoint and in order.
    """
    wide = [(start, end) for start, end in spans if start < end]
    ends = [end for _, end in wide]
    marks = []
    for a, b in offsets:
        following = bisect_right(ends, a)  # the first span that ends behind the token's first character
        marks.append(a < b and following < len(wide) and wide[following][0] < b)
    return marks


__all__ = [
    "EncodedChat",
    "Span",
    "chat_frame",
    "covered",
    "place_targets",
    "place_words",
    "plain_messages",
    "refuse_control_tokens",
    "refuse_control_tokens_in",
    "shortened",
    "text_messages",
]
