"""Chat templates for tokenizers that come without one, and the date that templates are rendered with.

A message's content is a string or a list of parts; image parts leave no text. Imports neither torch nor transformers.
"""

from __future__ import annotations

from datetime import date
from typing import Any

# Llama 3.2's template writes a day. It is the template's own default and not today's, so that packing, training and
# answering all render the same text.
TEMPLATE_DAY = date(2024, 7, 26)
_CODES = [sign + code for sign in ("", "-") for code in "aAbBcdDeFfGHIjmMpSTuUVwWxXyY"]
# A template's beginning that hides transformers' own clock, which cannot be replaced: templates get no functions from
# their callers. The line feed after it is taken off again by trim_blocks, so that the template still begins at the
# beginning of a line.
FIXED_CLOCK = (
    "{%- macro strftime_now(format) %}{{- format"
    + "".join(f" | replace('%{code}', '{TEMPLATE_DAY.strftime('%' + code)}')" for code in _CODES)
    + " }}{%- endmacro %}\n"
)

_CONTENT = (
    "{%- if message['content'] is string %}{{- message['content'] }}"
    "{%- else %}{%- for part in message['content'] if part['type'] == 'text' %}{{- part['text'] }}{%- endfor %}"
    "{%- endif %}"
)

# Llama 3's turns: a role header, two line feeds, the text, end of turn.
LLAMA3 = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    + _CONTENT
    + "{{- '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)

CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' }}"
    + _CONTENT
    + "{{- '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

# For a base model without chat tokens: its own end of text closes the assistant's turns.
PLAIN = (
    "{{- bos_token }}{%- for message in messages %}{{- message['role'] + ': ' }}"
    + _CONTENT
    + "{%- if message['role'] == 'assistant' %}{{- eos_token }}{%- endif %}{{- '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"
)


def template_for(tokenizer: Any) -> str:
    """The tokenizer's own template, or the one of these whose control tokens it has."""
    own = tokenizer.chat_template
    if isinstance(own, dict):  # several by name, as some tokenizers have them
        own = own.get("default")
    if isinstance(own, str):
        return own
    vocabulary = tokenizer.get_vocab()
    if {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= vocabulary.keys():
        return LLAMA3
    if {"<|im_start|>", "<|im_end|>"} <= vocabulary.keys():
        return CHATML
    return PLAIN


__all__ = ["CHATML", "FIXED_CLOCK", "LLAMA3", "PLAIN", "TEMPLATE_DAY", "template_for"]
