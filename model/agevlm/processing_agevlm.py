"""Pictures and chats to model inputs, and back to text.

Shapes: B rows, T text tokens, S image cells, N images (rows that have one).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin
from transformers.image_utils import load_image

from .chat_templates import TEMPLATE_DAY, template_for
from .chat_text import (
    EncodedChat,
    Message,
    chat_frame,
    covered,
    place_targets,
    place_words,
    plain_messages,
    refuse_control_tokens,
)
from .configuration_agevlm import AgeVlmVisionConfig
from .image_processing_agevlm import AgeVlmImageProcessor, picture_per_row, to_rgb

_CODES = [sign + code for sign in ("", "-") for code in "aAbBcdDeFfGHIjmMpSTuUVwWxXyY"]
# transformers' own clock cannot be replaced, only hidden: templates get no functions from their callers. The line feed
# after it is taken off again by trim_blocks, so that the template still begins at the beginning of a line.
_CLOCK = (
    "{%- macro strftime_now(format) %}{{- format"
    + "".join(f" | replace('%{code}', '{TEMPLATE_DAY.strftime('%' + code)}')" for code in _CODES)
    + " }}{%- endmacro %}\n"
)


class AgeVlmProcessor(ProcessorMixin):  # type: ignore[misc]
    """An image processor and a tokenizer with a chat template.

    Calling it gives `input_ids`, `attention_mask` (B, T) for text, and `pixel_values` (N, 3, H, W), `cell_mask` (B, S),
    `has_image` (B,) for images. `images` is one picture, or one per text with None (or an empty list) for a
    text-only row.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        if tokenizer is not None:
            if not tokenizer.is_fast:
                raise ValueError(
                    f"tokenizer {type(tokenizer).__name__} knows no character offsets; use its fast version"
                )
            chat_template = chat_template or template_for(tokenizer)
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        # transformers would look for our image processor in its registry, which does not have it.
        pictures = AgeVlmImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        # Not AutoTokenizer: it reads the model's config.json and asks whether to run the folder's code. A fast
        # tokenizer is its tokenizer.json, independent of the class that made it.
        kwargs.pop("trust_remote_code", None)
        return [pictures, PreTrainedTokenizerFast.from_pretrained(pretrained_model_name_or_path, **kwargs)]

    @classmethod
    def from_backbones(cls, tokenizer: Any, vision: AgeVlmVisionConfig, letterbox: str = "mean") -> AgeVlmProcessor:
        """The processor that belongs to a model's `vision_config` and its text backbone's tokenizer."""
        pictures = AgeVlmImageProcessor(
            image_size=vision.image_size,
            stride=vision.stride,
            letterbox=letterbox,
            image_mean=vision.image_mean,
            image_std=vision.image_std,
        )
        return cls(pictures, tokenizer)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokenize and preprocess; keyword arguments go to the tokenizer.

        Raises: ValueError if there are neither images nor text, if their numbers differ, or if a row has two images.
        """
        if images is None and text is None:
            raise ValueError("images and text are both missing; give at least one of them")
        data: dict[str, Any] = {}
        rows = None
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if not texts:
                raise ValueError("text is empty; give at least one text, or leave it out")
            rows = len(texts)
            data.update(self.tokenizer(texts, return_tensors=return_tensors, **kwargs))
        if images is not None:
            data.update(self._images(images, rows, return_tensors))
        return BatchFeature(data)

    def _images(self, images: Any, rows: int | None, return_tensors: str | None) -> BatchFeature:
        pictures = picture_per_row(images)
        if rows is not None and len(pictures) != rows:
            raise ValueError(
                f"{len(pictures)} images for {rows} texts; give one image per text, and None where a text has none"
            )
        has_image = np.array([picture is not None for picture in pictures])
        side = self.image_processor.image_size // self.image_processor.stride
        cell_mask = np.zeros((len(pictures), side * side), dtype=bool)
        out: dict[str, Any] = {"has_image": has_image, "cell_mask": cell_mask}
        if has_image.any():
            done = self.image_processor([picture for picture in pictures if picture is not None])
            cell_mask[has_image] = done["cell_mask"]
            out["pixel_values"] = done["pixel_values"]
        return BatchFeature(out, tensor_type=return_tensors)

    def render(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        """The chat as the text that is tokenized (it already begins with the begin-of-text token, if there is one).

        Control tokens in messages are not refused here; call `refuse_control_tokens` first for untrusted text.
        """
        text: str = self.tokenizer.apply_chat_template(
            plain_messages(messages),
            chat_template=_CLOCK + self.chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return text

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        sanitize_control_tokens: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As in transformers: text, or with `tokenize` model inputs; one conversation or a list of them.

        Pictures are message parts `{"type": "image", "image": PIL, path or URL}`, at most one per conversation. With
        `add_generation_prompt`, shorter chats are padded on the left, so that generation continues each at its end;
        `padding_side` overrides this.

        As in transformers a message may spell control tokens; `encode_chat` and `AgeVlm` refuse them. With
        `sanitize_control_tokens` they are refused here too: no model was trained on text that spells them.

        Raises: ValueError for malformed messages, or content other than text and pictures.
        """
        batched = len(conversation) > 0 and not isinstance(conversation[0], dict)
        chats = list(conversation) if batched else [conversation]
        template = _CLOCK + (chat_template or self.chat_template)
        wanted = {"chat_template": template, "add_generation_prompt": add_generation_prompt}
        own = ("continue_final_message", "documents", "date_string")
        template_kwargs: dict[str, Any] = {name: kwargs.pop(name) for name in own if name in kwargs}
        plain = [plain_messages(chat) for chat in chats]
        if sanitize_control_tokens:
            for messages in plain:
                refuse_control_tokens(messages, self.control_tokens)
        texts = [
            self.tokenizer.apply_chat_template(messages, tokenize=False, **wanted, **template_kwargs)
            for messages in plain
        ]
        if not tokenize:
            return texts if batched else texts[0]
        images = [_picture(chat) for chat in chats]
        side = {"padding_side": "left"} if add_generation_prompt else {}
        options = {"padding": batched, **side, **kwargs, **(processor_kwargs or {}), "add_special_tokens": False}
        inputs = self(
            images=images if any(image is not None for image in images) else None,
            text=texts,
            return_tensors=return_tensors,
            **options,
        )
        return inputs if return_dict else inputs["input_ids"]

    @property
    def control_tokens(self) -> list[str]:
        """Every special token of the tokenizer, named or not: a text that spells one would be read as a command."""
        added = self.tokenizer.added_tokens_decoder.values()
        unnamed = (token.content for token in added if token.special)
        return list(dict.fromkeys([*self.tokenizer.all_special_tokens, *unnamed]))

    def encode_chat(
        self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = False, trusted: Sequence[str] = ()
    ) -> EncodedChat:
        """A conversation: its tokens, targets of the language loss, and positions of every character.

        Args:
            add_generation_prompt: end with what opens the assistant's next turn.
            trusted: roles whose messages may spell control tokens, such as a recipe's system turn.

        Raises: ValueError for malformed messages, control tokens in their text, or a template that rewrites text.
        """
        plain = plain_messages(messages)
        refuse_control_tokens([m for m in plain if m["role"] not in trusted], self.control_tokens)
        render = partial(self.render, add_generation_prompt=add_generation_prompt)
        text = render(plain)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = [(int(a), int(b)) for a, b in encoded["offset_mapping"]]
        words = [message["content"] for message in plain]
        frame = chat_frame(render, [message["role"] for message in plain])
        spans = place_words(text, frame, words)
        stripped = [
            0 if end - start == len(word) else len(word) - len(word.lstrip())
            for word, (start, end) in zip(words, spans, strict=True)
        ]
        targets = covered(offsets, self._targets(plain, text, frame, spans))
        return EncodedChat(text, list(encoded["input_ids"]), offsets, targets, spans, stripped)

    def _targets(
        self, messages: list[Message], text: str, frame: Sequence[str], spans: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """Characters of the assistant's turns. Raises: ValueError if training would render a turn unlike generation."""
        roles = [message["role"] for message in messages]
        said = [number for number, role in enumerate(roles) if role == "assistant"]
        for number in said:
            if number and not text.startswith(self.render(messages[:number], add_generation_prompt=True)):
                raise ValueError(
                    f"the chat template renders turn {number} differently once later turns follow; use a template "
                    "whose output only grows"
                )
        # A chat that ends with the assistant's turn ends with that turn's closing text.
        closing = chat_frame(self.render, roles[: said[-1] + 1])[-1].rstrip() if said else ""
        return place_targets(frame, spans, said, closing)

    def stop_token_ids(self, model: Any = None) -> list[int]:
        """Tokens that end an answer: the tokenizer's, the model's, and the chat format's end of turn."""
        tokenizer = self.tokenizer
        found = {tokenizer.eos_token_id, *(tokenizer.get_vocab().get(t) for t in ("<|eot_id|>", "<|im_end|>"))}
        said = None if model is None else model.generation_config.eos_token_id
        found.update(said if isinstance(said, (list, tuple)) else [said])
        return sorted(token for token in found if token is not None)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "cell_mask", "has_image"]


def _picture(chat: Sequence[dict[str, Any]]) -> Any:
    """The one picture of a conversation, opened; None if it has none. Raises: ValueError for several."""
    found = []
    for message in chat:
        if isinstance(message["content"], str):
            continue
        for part in message["content"]:
            if part["type"] == "image":
                source = next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None)
                if source is None:
                    raise ValueError(f"image part {part!r} names no picture; add 'image', 'path' or 'url'")
                found.append(_opened(source))
    if len(found) > 1:
        raise ValueError(f"the conversation has {len(found)} images; AGE-VLM looks at one picture per conversation")
    return found[0] if found else None


def _opened(source: Any) -> Any:
    """A picture from its path, URL or base64; other things as they are. Raises: ValueError if it is none of them."""
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if not isinstance(source, str):
        return source
    if os.path.isfile(source):
        with Image.open(source) as picture:  # not load_image: it drops transparency and clips 16-bit greys
            return to_rgb(picture)
    return load_image(source)


AgeVlmProcessor.register_for_auto_class()  # a saved folder carries this code

__all__ = ["AgeVlmProcessor"]
