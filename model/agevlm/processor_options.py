"""The options of transformers' processors and chat templates that AGE-VLM's processor honours; others are errors.

transformers passes unknown options on until they are lost: a misspelt one, or one that a template never reads, has no
effect and says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from transformers.processing_utils import TextKwargs
from transformers.utils.chat_template_utils import _get_template_variables as template_variables
from transformers.utils.chat_template_utils import render_jinja_template

from .chat_text import MARK, shortened, text_messages
from .image_processing_agevlm import AgeVlmImageOptions

NESTED_OPTIONS = ("text_kwargs", "images_kwargs", "common_kwargs")
# What belongs to image tokens in the text or to transformers' own chat templates is left out, and so is what
# `from_pretrained` sets for all calls.
TEXT_OPTIONS = frozenset(TextKwargs.__annotations__) - {"return_mm_token_type_ids", "sanitize_control_tokens"}
IMAGE_OPTIONS = frozenset(AgeVlmImageOptions.__annotations__) - {"return_tensors", "image_size", "stride", "letterbox"}
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one field, which transformers fills in
GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")  # what marks the assistant's words in a template


def split_options(given: dict[str, Any], variables: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the tokenizer and of the image processor, also from transformers' nested form.

    Raises: ValueError for an option of neither; `variables` are then named as the template's.
    """
    flat = {name: value for name, value in given.items() if name not in NESTED_OPTIONS}
    for nested in NESTED_OPTIONS:
        flat |= given.get(nested) or {}
    unknown = sorted(flat.keys() - TEXT_OPTIONS - IMAGE_OPTIONS)
    if unknown:
        of_template = f", or a variable of the chat template ({', '.join(sorted(variables))})" if variables else ""
        raise ValueError(
            f"{shortened(unknown[0])} is no option of AGE-VLM's tokenizer or image processor{of_template}; it would "
            "have no effect"
        )
    of_text = {name: value for name, value in flat.items() if name in TEXT_OPTIONS}
    of_text.pop("return_text_replacement_offsets", None)  # of image tokens in the text, which AGE-VLM has none of
    return of_text, {name: value for name, value in flat.items() if name in IMAGE_OPTIONS}


def split_template_options(
    template: str, given: dict[str, Any], processor_options: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables of the chat template, and options of the processor ("images" among them).

    Raises: ValueError for an argument that neither of them has.
    """
    known = template_variables(template)
    variables = {name: value for name, value in given.items() if name in known}
    options = {**{name: value for name, value in given.items() if name not in known}, **(processor_options or {})}
    split_options({name: value for name, value in options.items() if name != "images"}, known)
    return variables, options


def check_template_arguments(
    template: str,
    *,
    tools: Any,
    documents: Any,
    load_audio_from_video: bool,
    return_assistant_tokens_mask: bool,
    model_inputs: bool,
) -> None:
    """Raise ValueError for an argument of `apply_chat_template` that this template would silently leave out.

    model_inputs: model inputs are returned, not only text or token ids.
    """
    if load_audio_from_video:
        raise ValueError("load_audio_from_video is True, but AGE-VLM reads pictures and text; leave it out")
    for name, value in (("tools", tools), ("documents", documents)):
        if value and name not in template_variables(template):
            raise ValueError(f"{name} are given, but the chat template never writes them; use one that does")
    if return_assistant_tokens_mask and not (model_inputs and GENERATION_BLOCK.search(template)):
        raise ValueError(
            "return_assistant_tokens_mask needs tokenize=True, return_dict=True and a chat template that marks the "
            "assistant's words with {% generation %} and {% endgeneration %}"
        )


def messages_for_template(template: str, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation as this template reads it: content as text, or as parts where it reads parts only.

    Raises: ValueError for a malformed message, and for one with a field that the template never writes.
    """
    plain = text_messages(messages)
    as_parts = reads_parts(template)
    for number, message in enumerate(plain):
        lost = [
            name
            for name in message.keys() - {"role", "content"}
            if not any(alias in template for alias in (REASONING if name in REASONING else (name, "tojson")))
        ]
        if lost:
            raise ValueError(
                f"message {number} has {shortened(lost[0])}, which the chat template never writes; take it out, or use "
                "a template that does"
            )
        if as_parts and "content" in message:
            content = messages[number]["content"]
            message["content"] = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    return plain


@lru_cache(maxsize=64)
def reads_parts(template: str) -> bool:
    """True if the template would lose a content that is a string, and writes one that is a list of parts."""

    def written(content: Any) -> bool:
        chat = [{"role": "user", "content": content}]
        try:
            texts, _ = render_jinja_template([chat], chat_template=template, bos_token="", eos_token="")
        except Exception:  # templates raise errors of their own, or stumble over the type of the content
            return False
        return mark in texts[0]

    mark = MARK.format(number=0)  # no letters: a template may change their case
    return not written(mark) and written([{"type": "text", "text": mark}])


__all__ = ["check_template_arguments", "messages_for_template", "split_options", "split_template_options"]
