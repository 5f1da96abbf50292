"""Texts to token ids, each with one begin-of-text token if the tokenizer uses one."""

from __future__ import annotations

from typing import Any

from transformers import BatchEncoding

OF_EACH_TEXT = ("text_pair", "text_target", "text_pair_target")


def tokenize_texts(tokenizer: Any, texts: list[Any], return_tensors: str | None, options: dict[str, Any]) -> Any:
    """The tokenizer's output; a text that begins with the begin-of-text token does not get a second one.

    With `add_special_tokens` in the options it is as the caller says.

    Raises: ValueError for texts with and without that token in one call, if a text may become several rows.
    """
    options = {name: value for name, value in options.items() if value is not None}
    begin = tokenizer.bos_token
    begun = [isinstance(text, str) and begin is not None and text.lstrip().startswith(begin) for text in texts]
    if "add_special_tokens" in options or not any(begun):
        return tokenizer(texts, return_tensors=return_tensors, **options)
    if all(begun):
        return tokenizer(texts, add_special_tokens=False, return_tensors=return_tensors, **options)
    if options.get("return_overflowing_tokens"):
        raise ValueError(
            "return_overflowing_tokens is given, and only some of the texts begin with the begin-of-text token; give "
            "add_special_tokens too"
        )
    return BatchEncoding(_tokenize_mixed(tokenizer, texts, begun, options), tensor_type=return_tensors)


def _tokenize_mixed(tokenizer: Any, texts: list[Any], begun: list[bool], options: dict[str, Any]) -> dict[str, Any]:
    """In two calls, because the tokenizer adds its tokens to all texts of a call or to none, padded to one length."""
    if options.get("padding") in (True, "longest"):
        unpadded = _in_two_calls(tokenizer, texts, begun, {**options, "padding": False, "pad_to_multiple_of": None})
        options = {**options, "padding": "max_length", "max_length": max(map(len, unpadded["input_ids"]))}
    return _in_two_calls(tokenizer, texts, begun, options)


def _in_two_calls(tokenizer: Any, texts: list[Any], begun: list[bool], options: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, list[Any]] = {}
    for has_begin in (True, False):
        rows = [row for row, one in enumerate(begun) if one == has_begin]
        own = {name: [options[name][row] for row in rows] for name in OF_EACH_TEXT if name in options}
        found = tokenizer([texts[row] for row in rows], **{**options, **own, "add_special_tokens": not has_begin})
        for name, values in found.items():
            for row, value in zip(rows, values, strict=True):
                out.setdefault(name, [None] * len(texts))[row] = value
    return out


__all__ = ["tokenize_texts"]
