"""Floating-point operations of a training step by formula, and the share of a GPU's peak that they make (MFU).

Pure arithmetic: no torch, so that a plan can be costed without loading it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from model.stage_table import StageRow

CONVNEXTS: Final[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "xxlarge": ((3, 4, 30, 3), (384, 768, 1536, 3072)),
    "huge": ((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
"""Size of a ConvNeXt -> blocks and channels of its four stages."""
STEM, KERNEL = 4, 7
"""Pixels per cell behind the stem, and the side of the depthwise kernels."""

PEAKS: Final[tuple[tuple[str, float], ...]] = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("B200", 2250e12),
    ("GB200", 2450e12),
    ("A100", 312e12),
    ("A30", 165e12),
    ("A40", 150e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX 4090", 165e12),
    ("MI300X", 1307e12),
)
"""Words of a GPU's name -> dense bf16 operations per second, from the maker's data sheet; the first match counts."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a student that its operations follow from. `cells`: visual tokens of one image."""

    hidden: int
    intermediate: int
    text_layers: int
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int
    in_block: bool
    cross_attention_layers: tuple[int, ...]
    image_size: int
    stride: int
    vision_blocks: tuple[int, ...]
    vision_channels: tuple[int, ...]

    @property
    def cells(self) -> int:
        """Visual tokens of one image."""
        return (self.image_size // self.stride) ** 2

    @classmethod
    def of(cls, config: Any) -> Sizes:
        """The sizes of an AgeVlmConfig. Raises ValueError for an encoder that is not in CONVNEXTS."""
        text, vision = config.text_config, config.vision_config
        blocks, channels = convnext(vision.architecture, vision.model_args or {})
        return cls(
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            text_layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            key_heads=text.num_key_value_heads,
            head_dim=text.head_dim,
            vocabulary=text.vocab_size,
            in_block=config.cross_attention == "in_block",
            cross_attention_layers=tuple(config.cross_attention_layers),
            image_size=vision.image_size,
            stride=vision.stride,
            vision_blocks=blocks,
            vision_channels=channels,
        )


def convnext(architecture: str, model_args: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks and channels of a timm ConvNeXt's stages. Raises ValueError if its size is not in CONVNEXTS."""
    words = architecture.split(".")[0].split("_")
    if len(words) < 2 or words[1] not in CONVNEXTS:
        raise ValueError(f"no FLOPs are known for vision encoder {architecture!r}; known sizes: {', '.join(CONVNEXTS)}")
    blocks, channels = CONVNEXTS[words[1]]
    return tuple(model_args.get("depths", blocks)), tuple(model_args.get("dims", channels))


@dataclass(frozen=True)
class Work:
    """The data of a step, over all workers, without padding.

    attended: sum of the squares of the rows' lengths; None for rows of equal length.
    image_tokens: text tokens of the rows with an image; None for their share of all tokens.
    query_tokens: query tokens of the guided rows, in all.
    """

    rows: int
    images: int
    tokens: int
    target_tokens: int
    query_tokens: int = 0
    attended: int | None = None
    image_tokens: int | None = None


@dataclass
class PartFlops:
    """Operations of one part of the model; `recompute` is the second forward pass of activation checkpointing."""

    forward: int = 0
    backward: int = 0
    recompute: int = 0


@dataclass
class StepFlops:
    """Operations of a step by part: vision encoder, adapter, cross-attention, guidance, language model, head."""

    parts: dict[str, PartFlops] = field(default_factory=dict)

    @property
    def model(self) -> int:
        """Operations that the step needs; MFU counts these."""
        return sum(part.forward + part.backward for part in self.parts.values())

    @property
    def hardware(self) -> int:
        """Operations that are computed: with those that activation checkpointing does again."""
        return self.model + sum(part.recompute for part in self.parts.values())

    def add(self, part: str, macs: int, backward: int, again: bool) -> None:
        """Add a product of `macs` multiply-adds, with `backward` products of the same size in the backward pass."""
        tally = self.parts.setdefault(part, PartFlops())
        tally.forward += 2 * macs
        tally.backward += 2 * macs * backward
        # A block is computed again only on the way to a gradient.
        tally.recompute += 2 * macs if again and backward else 0


def flops_per_step(sizes: Sizes, row: StageRow, work: Work, recompute: bool = False) -> StepFlops:
    """The operations of one optimiser step, by part.

    Counted are products of matrices, convolutions and attention, two operations per multiply-add; norms, activations,
    softmax and the optimizer are left out, as usual for MFU. Per token, with hidden size D, H query heads and K key
    heads of size E, MLP width F:

    - a Llama layer: D (H + 2 K) E + H E D (projections) + 3 D F (MLP), and 2 H E per pair of tokens (scores, and the
      sum of values). All pairs count, also those above the diagonal, as is usual.
    - cross-attention: 2 D H E (query and output) and 2 S H E (S cells) per text token of a row with an image; 2 D K E
      per cell (keys and values); 3 D F per text token for a layer's own MLP.
    - a ConvNeXt block of C channels: 49 C (depthwise) + 8 C^2 (MLP) per cell of its stage; the stem 48 C, and a
      downsampling 4 C' C, per cell behind them.
    - adapter: C D + D^2 per cell. Head: D V per target token, because only these get logits.
    - guidance: H E per query token, cell and cross-attention layer.

    A product in the backward pass costs as much as in the forward pass, for the gradient of the weight if it trains,
    and for the gradient of the input if something before it trains. So a frozen layer above cross-attention costs one
    product, below the first cross-attention layer none. Attention has two of each product; guidance has three, as its
    backward pass computes the scores again. `recompute` adds the second forward pass of all blocks with a gradient.
    """
    done = StepFlops()
    visual = _vision(done, sizes, row, work, recompute)
    _language(done, sizes, row, work, recompute, visual)
    return done


def _vision(done: StepFlops, sizes: Sizes, row: StageRow, work: Work, recompute: bool) -> bool:
    """Add encoder and adapter. True if the visual tokens have a gradient."""
    part, whole = "vision encoder", row.vision_encoder == "whole"
    gradient, stride, below = whole, STEM, 3
    for stage, (blocks, channels) in enumerate(zip(sizes.vision_blocks, sizes.vision_channels, strict=True)):
        if stage and stride < sizes.stride:
            stride *= 2
        cells = work.images * (sizes.image_size // stride) ** 2
        trained = whole or (stage == 3 and row.vision_encoder == "last stage")
        if stage == 0:  # its input is pixels, which have no gradient
            done.add(part, cells * STEM * STEM * below * channels, int(trained), again=False)
        else:  # a norm before the convolution trains with it
            done.add(part, cells * 4 * below * channels, int(trained) + int(gradient or trained), again=False)
            gradient = gradient or trained
        for block in range(blocks):
            last = stage == 3 and block == blocks - 1 and row.vision_encoder == "last block"
            weight, above = int(trained or last), gradient or trained or last
            # Depthwise convolutions differ only in that no norm lies between the block's input and the product.
            macs = cells * KERNEL * KERNEL * channels
            done.add(part, macs, weight + int(gradient), again=False)
            if recompute and above:
                done.parts[part].recompute += 2 * macs
            done.add(part, cells * 8 * channels * channels, weight + int(above), recompute)
            gradient = above
        below = channels
    cells = work.images * sizes.cells
    done.add("adapter", cells * below * sizes.hidden, int(row.adapter) + int(gradient), again=False)
    gradient = gradient or row.adapter
    done.add("adapter", cells * sizes.hidden * sizes.hidden, int(row.adapter) + int(gradient), again=False)
    return gradient


def _language(done: StepFlops, sizes: Sizes, row: StageRow, work: Work, recompute: bool, visual: bool) -> None:
    """Add the stack of layers and the head. visual: True if the visual tokens have a gradient."""
    width, queries, keys = sizes.hidden, sizes.heads * sizes.head_dim, sizes.key_heads * sizes.head_dim
    attended = work.tokens**2 // max(1, work.rows) if work.attended is None else work.attended
    seeing = work.tokens * work.images // max(1, work.rows) if work.image_tokens is None else work.image_tokens
    cells = work.images * sizes.cells
    gradient = row.language_model  # of the hidden states, from the embedding on

    def trained(part: str, macs: int, trains: bool) -> None:
        # A norm of the same part lies before each product, so its input has a gradient if the part trains.
        done.add(part, macs, int(trains) + int(trains or gradient), recompute)

    def mlp(part: str, tokens: int, trains: bool) -> None:
        trained(part, tokens * 3 * width * sizes.intermediate, trains)

    for has_text, has_cross in _layers(sizes):
        if has_text:
            trained("language model", work.tokens * width * 2 * (queries + keys), row.language_model)
            done.add("language model", attended * 2 * queries, 2 * int(gradient or row.language_model), recompute)
            gradient = gradient or row.language_model
        if has_cross:
            part = "cross-attention"
            trained(part, seeing * 2 * width * queries, row.cross_attention)
            done.add(part, cells * 2 * width * keys, int(row.cross_attention) + int(visual), recompute)
            gradient = gradient or row.cross_attention or visual
            done.add(part, seeing * sizes.cells * 2 * queries, 2 * int(gradient), recompute)
            if row.guidance_loss:
                done.add("guidance", work.query_tokens * sizes.cells * queries, 3 * int(gradient), recompute)
            if not has_text:
                mlp(part, seeing, row.cross_attention)
        if has_text:
            mlp("language model", work.tokens, row.language_model)
    head = work.target_tokens * width * sizes.vocabulary
    done.add("head", head, int(row.language_model) + int(gradient), again=False)


def _layers(sizes: Sizes) -> Iterator[tuple[bool, bool]]:
    """Per layer of the stack: it has self-attention, it has cross-attention."""
    at = set(sizes.cross_attention_layers)
    for position in range(sizes.text_layers + (0 if sizes.in_block else len(at))):
        yield (sizes.in_block or position not in at), position in at


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 operations per second of a GPU by its name (`torch.cuda.get_device_name`); None if it is not known."""
    return next((peak for name, peak in PEAKS if re.search(rf"\b{name}\b", device_name)), None)


def mfu(flops: float, seconds: float, device_name: str, world: int) -> float | None:
    """The share of the peak of `world` GPUs that `flops` (of all workers) in `seconds` are; None if it is not known."""
    peak = peak_flops(device_name)
    return None if peak is None or seconds <= 0 else flops / (seconds * world * peak)


__all__ = ["Sizes", "StepFlops", "Work", "flops_per_step", "mfu", "peak_flops"]
