"""The interface of every compared vision-language model, AGE-VLM and the baselines (paper section 3.1).

Shapes: T text tokens, D hidden size, S visual tokens, L layers that attend to the image, h x w cells of its map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.float32]
Picture = Image.Image


class HiddenStates(Protocol):
    """One sample's representations: `text` (T, D) of the last layer, `image` (S, D), `valid` (S,) bool.

    `image` holds the hidden states of the image tokens in the language model. A model without image tokens gives its
    nearest equivalent (AGE-VLM: the adapter's outputs). `valid` is False for visual tokens of padding.
    All are read-only properties, so that a frozen dataclass satisfies the protocol.
    """

    @property
    def text(self) -> FloatArray: ...

    @property
    def image(self) -> FloatArray: ...

    @property
    def valid(self) -> NDArray[np.bool_]: ...


class AttentionMaps(Protocol):
    """Attention of a text over an image: `maps` (L, h, w), mean over heads and over the text's tokens.

    `valid` (h, w) is True for cells with image pixels. `layers` are the numbers of the L layers in the model's
    numbering, ascending; tables 4 and 6 show the first.
    """

    @property
    def maps(self) -> FloatArray: ...

    @property
    def valid(self) -> NDArray[np.bool_]: ...

    @property
    def layers(self) -> tuple[int, ...]: ...

    def heat_map(self, image: Picture, layer: int = 0) -> Picture:
        """Map number `layer` as colours over the upright image, in the image's size."""
        ...


class VisionLanguageModel(Protocol):
    """Answers, hidden states and attention maps of one model."""

    def answer(
        self, images: Sequence[Picture | None], prompts: Sequence[str], *, max_new_tokens: int = 64, **generate: Any
    ) -> list[str]:
        """Generated answers, one per prompt, without special tokens. An image is None where a prompt has none."""
        ...

    def hidden_states(self, images: Sequence[Picture], prompts: Sequence[str]) -> Sequence[HiddenStates]:
        """Representations of each picture and prompt (fig. 2)."""
        ...

    def attention_maps(
        self,
        images: Sequence[Picture],
        prompts: Sequence[str],
        *,
        spans: Sequence[tuple[int, int]] | None = None,
        answers: Sequence[str] | None = None,
    ) -> Sequence[AttentionMaps]:
        """Attention of each prompt, of its characters in `spans`, or of the tokens of its answer."""
        ...


if TYPE_CHECKING:  # mypy holds every implementation to the interface here
    from model.agevlm.analysis import AgeVlm

    IMPLEMENTATIONS: tuple[type[VisionLanguageModel], ...] = (AgeVlm,)
