"""Texts to token ids, each with one begin-of-text token if the tokenizer uses one."""

from __future__ import annotations

from typing import Any

from transformers.data.data_collator import pad_without_fast_tokenizer_warning

PADDING_OPTIONS = ("padding", "max_length", "pad_to_multiple_of", "padding_side", "return_attention_mask")


def tokenize_texts(tokenizer: Any, texts: list[Any], return_tensors: str | None, options: dict[str, Any]) -> Any:
    """The tokenizer's output; a text that begins with the begin-of-text token does not get a second one.

    With `add_special_tokens` in the options it is as the caller says.
    """
    begin = tokenizer.bos_token
    begun = [isinstance(text, str) and begin is not None and text.startswith(begin) for text in texts]
    if options.get("add_special_tokens") is not None or not any(begun):
        return tokenizer(texts, return_tensors=return_tensors, **options)
    if all(begun):
        return tokenizer(texts, add_special_tokens=False, return_tensors=return_tensors, **options)
    # Row by row, because the tokenizer adds its tokens to all texts of a call or to none.
    padding = {name: options[name] for name in PADDING_OPTIONS if name in options}
    rest = {name: value for name, value in options.items() if name not in padding or name == "max_length"}
    rows = [tokenizer(t, add_special_tokens=not b, **rest) for t, b in zip(texts, begun, strict=True)]
    together = {name: [row[name] for row in rows] for name in rows[0]}
    how = {"padding": False, **padding, "return_tensors": return_tensors}
    return pad_without_fast_tokenizer_warning(tokenizer, together, **how)


__all__ = ["tokenize_texts"]
