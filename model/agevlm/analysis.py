"""AGE-VLM behind `model.interface`: answers, hidden states, attention maps (paper section 3.1, tables 4 and 6).

Shapes: B rows, T text tokens, S image cells, D hidden size, L cross-attention layers, h x w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .chat_text import EncodedChat
from .image_processing_agevlm import to_rgb
from .letterbox import Geometry
from .loading import load_whole
from .modeling_agevlm import AgeVlmForConditionalGeneration
from .processing_agevlm import AgeVlmProcessor

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class AgeVlmHiddenStates:
    """`text` (T, D) after the last layer and final norm, `image` (S, D) from the adapter, `valid` (S,) not padding.

    AGE-VLM's language model has no image tokens. The adapter's outputs take their place: they have the same width and
    are the input of cross-attention. So a distance between text and image states cannot be compared directly with that
    of a model that carries image tokens through its layers.
    """

    text: FloatArray
    image: FloatArray
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class AgeVlmAttentionMaps:
    """`maps` (L, h, w), each a distribution over cells; `valid` (h, w) cells with image pixels.

    layers: positions of the cross-attention layers as in the configuration; the first is the one that tables show.
    """

    maps: FloatArray
    valid: NDArray[np.bool_]
    layers: tuple[int, ...]
    geometry: Geometry

    def on_image(self, layer: int = 0) -> FloatArray:
        """Map number `layer`, interpolated to the upright image's pixels: (H, W), largest value 1."""
        place, grid = self.geometry, np.ascontiguousarray(self.maps[layer])
        square = Image.fromarray(grid, mode="F").resize((place.side, place.side), Image.Resampling.BILINEAR)
        box = (place.left, place.top, place.left + place.inner_width, place.top + place.inner_height)
        out = np.asarray(square.crop(box).resize((place.width, place.height), Image.Resampling.BILINEAR))
        peak = float(out.max())
        return np.asarray(out / peak if peak > 0 else out, dtype=np.float32)

    def heat_map(self, image: Image.Image, layer: int = 0) -> Image.Image:
        """Map number `layer` as colours (blue: little, red: much) laid over the upright image."""
        heat = self.on_image(layer)
        # A plain ramp: red rises in the upper half, blue falls in the lower half, green peaks between.
        colours = np.stack(
            [np.clip(2 * heat - 0.5, 0, 1), 1 - np.abs(2 * heat - 1), np.clip(1.5 - 2 * heat, 0, 1)], axis=-1
        )
        picture = np.asarray(to_rgb(image), dtype=np.float32) / 255
        if picture.shape[:2] != heat.shape:
            raise ValueError(f"image is {picture.shape[:2]}, the map belongs to one of {heat.shape} pixels")
        weight = (0.2 + 0.6 * heat)[..., None]
        return Image.fromarray(np.round(255 * ((1 - weight) * picture + weight * colours)).astype(np.uint8))


class AgeVlm:
    """A model and its processor as a `model.interface.VisionLanguageModel`. Runs on the model's device and dtype.

    Prompts and answers are untrusted text. A text that spells a control token is refused, because it would end its turn
    and open a forged one.

    Args:
        system_prompt: the system turn of the training conversations; None for none, '' for an empty one.

    Raises: ValueError if the tokenizer has no padding token, which batches need.
    """

    def __init__(
        self, model: AgeVlmForConditionalGeneration, processor: AgeVlmProcessor, system_prompt: str | None = None
    ) -> None:
        self.model, self.processor = model.eval(), processor
        self._system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        if processor.tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer names no padding token; set its pad_token, for example to its eos_token")

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> AgeVlm:
        """Open a saved folder; keyword arguments go to the model (dtype, device_map)."""
        model = load_whole(AgeVlmForConditionalGeneration, folder, **kwargs)
        return cls(model, AgeVlmProcessor.from_pretrained(folder))

    def encode(self, prompt: str, answer: str | None = None) -> EncodedChat:
        """The tokens of a prompt that is to be answered, or of a prompt with its answer as in training.

        Raises: ValueError if either would forge turns, or if the chat template rewrites it.
        """
        chat = [*self._system, {"role": "user", "content": prompt}]
        if answer is not None:
            chat.append({"role": "assistant", "content": answer})
        return self.processor.encode_chat(chat, add_generation_prompt=answer is None, trusted=("system",))

    @torch.no_grad()
    def answer(
        self,
        images: Sequence[Image.Image | None],
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 64,
        **generate: Any,
    ) -> list[str]:
        """Answers, greedy unless `generate` says otherwise (do_sample, num_beams ...). One picture or None a prompt.

        Raises: ValueError if their numbers differ, or if a prompt would forge turns.
        """
        _check_pairs(images, prompts)
        if not prompts:
            return []
        inputs = self._inputs(images, [self.encode(prompt) for prompt in prompts])
        options = {"do_sample": False, "eos_token_id": self.processor.stop_token_ids(self.model), **generate}
        pad = self.processor.tokenizer.pad_token_id
        out = self.model.generate(**inputs, max_new_tokens=max_new_tokens, pad_token_id=pad, **options)
        said: list[str] = self.processor.tokenizer.batch_decode(
            out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return [text.strip() for text in said]

    @torch.no_grad()
    def hidden_states(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[AgeVlmHiddenStates]:
        """Text states of the last layer and adapter outputs, one sample at a time (no padding enters them).

        Raises: ValueError if the numbers differ, if a picture is missing, or if a prompt would forge turns.
        """
        _check_pairs(images, prompts)
        result = []
        for number, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            if image is None:
                raise ValueError(f"image {number} is None; hidden states are those of a picture and a prompt")
            inputs = self._inputs([image], [self.encode(prompt)])
            out = self.model.model(**inputs)
            result.append(
                AgeVlmHiddenStates(
                    _array(out.last_hidden_state[0]), _array(out.visual_tokens[0]), inputs["cell_mask"][0].cpu().numpy()
                )
            )
        return result

    @torch.no_grad()
    def attention_maps(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        *,
        spans: Sequence[tuple[int, int]] | None = None,
        answers: Sequence[str] | None = None,
    ) -> list[AgeVlmAttentionMaps]:
        """Cross-attention of each prompt's tokens, of its characters in `spans`, or of its answer's tokens.

        The same averaged map as in the guidance loss (eq. 3): mean over heads and over the text's tokens.

        Raises: ValueError if the numbers differ, if both `spans` and `answers` are given, if a text has no token or
        would forge turns, or if an image is missing.
        """
        _check_pairs(images, prompts)
        if spans is not None and answers is not None:
            raise ValueError("spans and answers are both given; ask for one of them")
        for name, given in (("spans", spans), ("answers", answers)):
            if given is not None and len(given) != len(prompts):
                raise ValueError(f"{len(given)} {name} for {len(prompts)} prompts; give one per prompt")
        if not prompts:
            return []
        upright = [to_rgb(image) for image in images]
        said: Sequence[str | None] = answers or [None] * len(prompts)
        parts: Sequence[tuple[int, ...]] = spans or [()] * len(prompts)
        chats = [self.encode(prompt, answer) for prompt, answer in zip(prompts, said, strict=True)]
        inputs = self._inputs(upright, chats)
        query = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        for row, (chat, span) in enumerate(zip(chats, parts, strict=True)):
            first, last = chat.token_span(len(chat.message_spans) - 1, *span)
            if first == last:
                raise ValueError(f"characters {span or 'all'} of text {row} have no token; give a span with text in it")
            padding = query.shape[1] - len(chat.input_ids)
            query[row, padding + first : padding + last] = True
        cells = inputs["cell_mask"]
        out = self.model.model(**inputs, guidance_mask=torch.ones_like(cells), query_mask=query)
        grid = self.model.config.vision_config.grid
        return [
            AgeVlmAttentionMaps(
                maps=_array(out.attention_maps[:, row]).reshape(-1, grid, grid),
                valid=cells[row].cpu().numpy().reshape(grid, grid),
                layers=tuple(self.model.config.cross_attention_layers),
                geometry=self.processor.image_processor.geometry(picture.height, picture.width),
            )
            for row, picture in enumerate(upright)
        ]

    def _inputs(self, images: Sequence[Image.Image | None], chats: Sequence[EncodedChat]) -> dict[str, torch.Tensor]:
        """The model's inputs, padded on the left because generation continues at the right end."""
        longest = max(len(chat.input_ids) for chat in chats)
        ids = torch.full((len(chats), longest), self.processor.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, chat in enumerate(chats):
            ids[row, longest - len(chat.input_ids) :] = torch.tensor(chat.input_ids)
            mask[row, longest - len(chat.input_ids) :] = 1
        pictures = self.processor(images=list(images), return_tensors="pt")
        inputs = {"input_ids": ids, "attention_mask": mask, **pictures}
        on_device = {name: value.to(self.model.device) for name, value in inputs.items()}
        if "pixel_values" in on_device:
            on_device["pixel_values"] = on_device["pixel_values"].to(self.model.dtype)
        return on_device


def _check_pairs(images: Sequence[Any], prompts: Sequence[str]) -> None:
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images for {len(prompts)} prompts; give one (or None) per prompt")


def _array(tensor: torch.Tensor) -> FloatArray:
    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)


__all__ = ["AgeVlm", "AgeVlmAttentionMaps", "AgeVlmHiddenStates"]
