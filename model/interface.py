"""What the analysis and the evaluation ask of any vision-language model: ours and the baselines (section 3.1).

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

    `image` are the hidden states of image tokens where a model has them in its language model, else what stands for
    them (AGE-VLM: the adapter's outputs). `valid` leaves out visual tokens that stand for padding only.
    Read-only, so that a frozen dataclass is one.
    """

    @property
    def text(self) -> FloatArray: ...

    @property
    def image(self) -> FloatArray: ...

    @property
    def valid(self) -> NDArray[np.bool_]: ...


class AttentionMaps(Protocol):
    """Where some text looked: `maps` (L, h, w), mean over heads and over the text's tokens; `valid` (h, w) bool.

    `layers` are the L layers' numbers in the model's own count, ascending; tables 4 and 6 show the first.
    """

    @property
    def maps(self) -> FloatArray: ...

    @property
    def valid(self) -> NDArray[np.bool_]: ...

    @property
    def layers(self) -> tuple[int, ...]: ...

    def heat_map(self, image: Picture, layer: int = 0) -> Picture:
        """Map number `layer` laid over the upright image, in the image's own size."""
        ...


class VisionLanguageModel(Protocol):
    """Three questions that every compared model answers."""

    def answer(
        self, images: Sequence[Picture | None], prompts: Sequence[str], *, max_new_tokens: int = 64, **generate: Any
    ) -> list[str]:
        """Generated answers, one a prompt, without special tokens. None: no picture."""
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
        """Where each prompt (or its characters in `spans`, or the tokens of its answer behind it) looks."""
        ...


if TYPE_CHECKING:  # mypy holds every implementation to the interface here
    from model.agevlm.analysis import AgeVlm

    IMPLEMENTATIONS: tuple[type[VisionLanguageModel], ...] = (AgeVlm,)
