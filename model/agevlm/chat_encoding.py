"""A conversation as training sees it: its tokens, the targets of the language loss, and the place of every character.

`AgeVlmProcessor.encode_chat` is this with the processor's own tokenizer and template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .chat_text import (
    EncodedChat,
    Message,
    Span,
    chat_frame,
    covered,
    place_targets,
    place_words,
    plain_messages,
    refuse_control_tokens,
)

Render = Callable[..., str]  # (messages, add_generation_prompt=False) -> the rendered chat


def encode_chat(
    tokenizer: Any,
    render: Render,
    messages: Sequence[dict[str, Any]],
    *,
    control_tokens: Sequence[str],
    add_generation_prompt: bool = False,
    trusted: Sequence[str] = (),
) -> EncodedChat:
    """Render a conversation, tokenize it, and find each message's words in it.

    Args:
        render: the chat template.
        control_tokens: texts that a message may not spell.
        add_generation_prompt: end with what opens the assistant's next turn.
        trusted: roles whose messages may spell control tokens.

    Raises: ValueError for malformed messages, control tokens in their text, or a template that rewrites text.
    """
    plain = plain_messages(messages)
    refuse_control_tokens([m for m in plain if m["role"] not in trusted], control_tokens)
    render_whole = partial(render, add_generation_prompt=add_generation_prompt)
    text = render_whole(plain)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = [(int(a), int(b)) for a, b in encoded["offset_mapping"]]
    words = [message["content"] for message in plain]
    frame = chat_frame(render_whole, [message["role"] for message in plain])
    spans = place_words(text, frame, words)
    stripped = [
        0 if end - start == len(word) else len(word) - len(word.lstrip())
        for word, (start, end) in zip(words, spans, strict=True)
    ]
    targets = covered(offsets, _assistant_spans(render, plain, text, frame, spans))
    return EncodedChat(text, list(encoded["input_ids"]), offsets, targets, spans, stripped)


def _assistant_spans(
    render: Render, messages: list[Message], text: str, frame: Sequence[str], spans: Sequence[Span]
) -> list[Span]:
    """Characters of the assistant's turns. Raises: ValueError if training would render a turn unlike generation."""
    roles = [message["role"] for message in messages]
    said = [number for number, role in enumerate(roles) if role == "assistant"]
    for number in said:
        if number and not text.startswith(render(messages[:number], add_generation_prompt=True)):
            raise ValueError(
                f"the chat template renders turn {number} differently once later turns follow; use a template "
                "whose output only grows"
            )
    # A chat that ends with the assistant's turn ends with that turn's closing text.
    closing = chat_frame(render, roles[: said[-1] + 1])[-1].rstrip() if said else ""
    return place_targets(frame, spans, said, closing)


__all__ = ["encode_chat"]
