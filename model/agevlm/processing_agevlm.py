"""Pictures and chats to model inputs, and back to text.

Shapes: B rows, T text tokens, S image cells, N images (rows that have one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from .chat_encoding import encode_chat
from .chat_templates import FIXED_CLOCK, template_for
from .chat_text import (
    EncodedChat,
    plain_messages,
    refuse_control_tokens,
    refuse_control_tokens_in,
    text_messages,
)
from .configuration_agevlm import AgeVlmVisionConfig
from .image_processing_agevlm import AgeVlmImageOptions, AgeVlmImageProcessor
from .picture_parts import picture_per_row, pictures_of_chats
from .processor_options import check_template_arguments, messages_for_template, split_options, split_template_options
from .text_inputs import tokenize_texts


class AgeVlmProcessor(ProcessorMixin):  # type: ignore[misc]
    """An image processor and a tokenizer with a chat template.

    Calling it gives `input_ids`, `attention_mask` (B, T) for text, and `pixel_values` (N, 3, H, W), `cell_mask` (B, S),
    `has_image` (B,) for images. `images` is one picture, or one per text with None (or an empty list) for a
    text-only row.

    Texts are padded on the left, so that generation continues each at its end; `padding_side` sets the tokenizer's.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        padding_side: str = "left",
    ) -> None:
        if tokenizer is not None:
            if not tokenizer.is_fast:
                raise ValueError(
                    f"tokenizer {type(tokenizer).__name__} knows no character offsets; use its fast version"
                )
            named = tokenizer.chat_template  # a dict if the tokenizer has several templates
            several = isinstance(named, dict) and "default" in named
            chat_template = chat_template or (named if several else template_for(tokenizer))
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            tokenizer.padding_side = padding_side
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        # transformers would look for our image processor in its registry, which does not have it.
        pictures = AgeVlmImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        # Not AutoTokenizer: it reads the model's config.json and asks whether to run the folder's code. A fast
        # tokenizer is its tokenizer.json, independent of the class that made it.
        others = {"trust_remote_code", *AgeVlmImageOptions.__annotations__}
        of_text = {name: value for name, value in kwargs.items() if name not in others}
        return [pictures, PreTrainedTokenizerFast.from_pretrained(pretrained_model_name_or_path, **of_text)]

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
        videos: None = None,
        audio: None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokenize and preprocess; keyword arguments go to the tokenizer and the image processor.

        A text that begins with the begin-of-text token, such as a rendered chat, does not get a second one.

        Raises: ValueError if there are neither images nor text, if their numbers differ, if a row has two images, or
        for an argument that cannot be honoured.
        """
        if images is None and text is None:
            raise ValueError("images and text are both missing; give at least one of them")
        if videos is not None or audio is not None:
            raise ValueError("AGE-VLM reads pictures and text; leave videos and audio out")
        of_text, of_images = split_options(kwargs)
        nested = of_text.pop("return_tensors", None)
        return_tensors = return_tensors or nested
        data: dict[str, Any] = {}
        rows = None
        if text is not None:
            if not isinstance(text, (str, list, tuple)):
                raise ValueError(f"text is a {type(text).__name__}; give a string or a list of strings")
            texts = [text] if isinstance(text, str) else list(text)
            if not texts:
                raise ValueError("text is empty; give at least one text, or leave it out")
            rows = len(texts)
            data.update(tokenize_texts(self.tokenizer, texts, return_tensors, of_text))
        if images is not None:
            if of_text.get("return_overflowing_tokens"):
                raise ValueError(
                    "return_overflowing_tokens cuts a text into several rows, but its image is one; leave it out"
                )
            data.update(self._images(images, rows, return_tensors, of_images))
        return BatchFeature(data)

    def _images(
        self, images: Any, rows: int | None, return_tensors: str | None, options: dict[str, Any]
    ) -> BatchFeature:
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
            done = self.image_processor([picture for picture in pictures if picture is not None], **options)
            cell_mask[has_image] = done["cell_mask"]
            out["pixel_values"] = done["pixel_values"]
        return BatchFeature(out, tensor_type=return_tensors)

    def render(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        """The chat as the text that is tokenized (it already begins with the begin-of-text token, if there is one).

        Control tokens in messages are not refused here; call `refuse_control_tokens` first for untrusted text.
        """
        template = self._resolve_chat_template(None)
        text: str = self.tokenizer.apply_chat_template(
            messages_for_template(template, plain_messages(messages)),
            chat_template=FIXED_CLOCK + template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
        return text

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: Sequence[Any] | None = None,
        documents: Sequence[dict[str, str]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = None,
        return_dict: bool = False,
        load_audio_from_video: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        sanitize_control_tokens: bool = False,
        **kwargs: Any,
    ) -> Any:
        """transformers' own: text, or with `tokenize` model inputs; one conversation or a list of them.

        Pictures are message parts, at most one per conversation: `{"type": "image"}` with "image" (PIL, array, tensor),
        "path", "url" or "base64", or OpenAI's `{"type": "image_url", "image_url": {"url": ...}}`. Further keyword
        arguments are variables of the template, or options of the tokenizer as in `processor_kwargs`.

        A batch is padded: on the left if its chats are to be continued (`add_generation_prompt`,
        `continue_final_message`), else on the right; `padding_side` overrides this.

        As in transformers a message may spell control tokens; `encode_chat` and `AgeVlm` refuse them. With
        `sanitize_control_tokens` they are refused here too, in messages, tools, documents and variables: no model was
        trained on text that spells them.

        A picture leaves no text, and a template reads a message's text as a string; one that only reads lists of parts
        gets the parts.

        Raises: ValueError for malformed messages, content other than text and pictures, and whatever the template or
        the tokenizer would leave out silently: unknown arguments; tools, documents, fields of messages and a mask of
        the assistant's tokens where the template does not write them.
        """
        batched, chats = _conversations(conversation)
        template = self._resolve_chat_template(chat_template)
        variables, options = split_template_options(template, kwargs, processor_kwargs)
        check_template_arguments(
            template, tools=tools, documents=documents, load_audio_from_video=load_audio_from_video,
            return_assistant_tokens_mask=return_assistant_tokens_mask, model_inputs=tokenize and return_dict,
        )  # fmt: skip
        rendered = [messages_for_template(template, chat) for chat in chats]
        if sanitize_control_tokens:
            for chat in chats:
                refuse_control_tokens(text_messages(chat), self.control_tokens)
            for what, value in (("tools", tools), ("documents", documents), ("template variables", variables)):
                refuse_control_tokens_in(what, value, self.control_tokens)
        if tokenize:
            side = "left" if add_generation_prompt or continue_final_message else "right"
            options = {"padding": batched, "padding_side": side, "add_special_tokens": False, **options}
            pictures = pictures_of_chats(chats, options.get("images"))
            options["images"] = [[] if p is None else [p] for p in pictures] if batched else pictures
        return super().apply_chat_template(
            rendered if batched else rendered[0],
            chat_template=FIXED_CLOCK + template,
            tools=tools or None,
            documents=documents or None,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            tokenize=tokenize,
            return_tensors="auto" if return_tensors is None else return_tensors,
            return_dict=return_dict,
            processor_kwargs=options,
            **variables,
        )

    def _multimodal_inputs_from_conversations(
        self, conversations: list[Any], *args: Any, **kwargs: Any
    ) -> tuple[list[Any], list[Any], list[Any], dict[str, Any]]:
        # The pictures were opened above, and the messages are text; transformers would turn an empty text into a list.
        nothing: list[list[Any]] = [[] for _ in conversations]
        return nothing, nothing, [], {}

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
        return encode_chat(
            self.tokenizer,
            self.render,
            messages,
            control_tokens=self.control_tokens,
            add_generation_prompt=add_generation_prompt,
            trusted=trusted,
        )

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


def _conversations(given: Any) -> tuple[bool, list[list[Any]]]:
    """True if several conversations are given, and the list of them. Raises: ValueError for an empty one."""
    chats = list(getattr(given, "messages", given))
    several = bool(chats) and not isinstance(chats[0], dict)
    conversations = [list(getattr(chat, "messages", chat)) for chat in chats] if several else [chats]
    if not all(conversations):
        raise ValueError("a conversation is empty; give at least one message")
    return several, conversations


AgeVlmProcessor.register_for_auto_class()  # a saved folder carries this code

__all__ = ["AgeVlmProcessor"]
