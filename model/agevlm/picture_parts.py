"""The picture of each row or conversation, in every nesting that transformers takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .pictures import decoded, is_data_url, opened

SOURCES = ("image", "path", "url", "base64")  # what names the picture of a content part of type "image"


def pictures_of_chats(chats: Sequence[Sequence[Mapping[str, Any]]], beside: Any = None) -> list[Any]:
    """The picture of each conversation, opened; None where it has none.

    A picture is a content part of type "image" (transformers) or "image_url" (OpenAI).

    Args:
        beside: pictures given beside the conversations, whose parts then only mark the places; None if there are none.

    Raises: ValueError for several pictures in a conversation, and for parts and pictures that do not belong together.
    """
    given = [None] * len(chats) if beside is None else picture_per_row(beside)
    if len(given) != len(chats):
        raise ValueError(f"{len(given)} images for {len(chats)} conversations; give one per conversation, or None")
    return [_picture(chat, picture) for chat, picture in zip(chats, given, strict=True)]


def _picture(messages: Sequence[Mapping[str, Any]], beside: Any) -> Any:
    lists = [message.get("content") for message in messages]
    parts = [part for content in lists if isinstance(content, (list, tuple)) for part in content]
    parts = [part for part in parts if part.get("type") in ("image", "image_url")]
    if len(parts) > 1:
        raise ValueError(f"the conversation has {len(parts)} images; AGE-VLM looks at one picture per conversation")
    if not parts:
        return beside
    named = _open_part(parts[0])
    if (named is None) == (beside is None):
        raise ValueError(
            "an image part names no picture; add 'image', 'path', 'url' or 'base64', or give it as "
            "processor_kwargs={'images': ...}"
            if named is None
            else "a picture is in the conversation and another in processor_kwargs={'images': ...}; give one of them"
        )
    return beside if named is None else named


def picture_per_row(images: Any) -> list[Any]:
    """The picture of each row, None for a text-only row, from one picture, a list of them, or a list of lists.

    As in transformers a row's list holds its pictures; AGE-VLM takes none or one.

    Raises: ValueError if there is no row, or a row with several pictures.
    """
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, (list, tuple)):
        return [images]
    if not images:
        raise ValueError("images is empty; give at least one image, or leave it out")
    rows = [list(row) if isinstance(row, (list, tuple)) else [row] for row in images]
    for number, row in enumerate(rows):
        if len(row) > 1:
            raise ValueError(f"row {number} has {len(row)} images; AGE-VLM looks at one picture per row")
    return [row[0] if row else None for row in rows]


def _open_part(part: Mapping[str, Any]) -> Any:
    """The picture of a content part; None if the part only marks the picture's place.

    Raises: ValueError as `opened`, for a part that names several pictures, and for one with words.
    """
    if part.get("text"):
        raise ValueError("an image part holds text, which would be lost; put it in a part of type 'text'")
    if part["type"] == "image_url":
        given = part.get("image_url")
        return opened(given.get("url") if isinstance(given, Mapping) else given)
    sources = [name for name in SOURCES if part.get(name) is not None]
    if len(sources) > 1:
        raise ValueError(f"an image part names {' and '.join(sources)}; give one of them")
    if not sources:
        return None
    source = part[sources[0]]
    if sources == ["base64"]:
        text = bytes(source).decode("ascii", "replace") if isinstance(source, (bytes, bytearray)) else source
        return decoded(text) if isinstance(text, str) and not is_data_url(text) else opened(text)
    return opened(source)


__all__ = ["picture_per_row", "pictures_of_chats"]
