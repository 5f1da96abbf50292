"""Bytes that autograd keeps from a forward pass for the backward pass, by formula, module by module.

The formulas follow the modules' code: each lists the tensors that are kept. N: text tokens of a micro-batch with
padding, D: hidden size, F: MLP width, H and K: query and key heads of size E, S: cells of an image, C: channels.

A module keeps its input for the gradient of its weight, so only if it trains; norms, attention and activations keep
theirs wherever a gradient passes. Nothing is kept where none passes: in the frozen encoder, and in frozen layers below
the first cross-attention.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from model.stage_table import StageRow
from pipeline.plan.costs.student import Student
from pipeline.training.flops import STEM, Sizes

Precision = Literal["fp32", "bf16", "bf16_parameters"]
STATISTICS = 8  # bytes per row of a norm: mean and reciprocal deviation in fp32


@dataclass(frozen=True)
class Formats:
    """Bytes per element. `stream`: of the hidden states between blocks; `product`: of what matrix products return.

    casts: autocast keeps a bf16 copy of each product's input and weight. half_norms: norms of the encoder keep bf16
    (on a CPU), else fp32.
    """

    stream: int
    product: int
    casts: bool
    half_norms: bool

    @classmethod
    def of(cls, precision: Precision, gpu: bool) -> "Formats":
        """The formats of a stage's precision."""
        if precision == "fp32":
            return cls(4, 4, casts=False, half_norms=False)
        return cls(4 if precision == "bf16" else 2, 2, precision == "bf16", not gpu or precision == "bf16_parameters")

    @property
    def norm(self) -> int:
        """Bytes of an input of the encoder's norms inside blocks."""
        return 2 if self.half_norms else 4


@dataclass(frozen=True)
class MicroBatch:
    """The data of one forward pass on one worker. `tokens`: with padding, over all rows; `longest`: of one row."""

    rows: int
    images: int
    longest: int
    target_tokens: int

    @property
    def tokens(self) -> int:
        """Text tokens, padding among them."""
        return self.rows * self.longest


@dataclass(frozen=True)
class Kept:
    """The values that a module keeps. `block`: it is recomputed under activation checkpointing, which keeps `input`.

    weights: parameters of which autocast keeps a bf16 copy.
    """

    part: str
    bytes: int
    block: bool = False
    input: int = 0
    weights: int = 0


def kept(student: Student, row: StageRow, batch: MicroBatch, formats: Formats) -> list[Kept]:
    """The values that each module keeps, in the order of the forward pass."""
    return [*_encoder(student, row, batch, formats), *_language(student, row, batch, formats)]


def _encoder(student: Student, row: StageRow, batch: MicroBatch, formats: Formats) -> Iterator[Kept]:
    sizes, images = student.sizes, batch.images
    whole = row.vision_encoder == "whole"
    if whole:
        cells = images * (sizes.image_size // STEM) ** 2
        pixels = 2 * images * 3 * sizes.image_size**2 if formats.casts else 0  # a bf16 copy; the batch is counted apart
        yield Kept(
            "stem", pixels + cells * (sizes.vision_channels[0] * formats.norm + STATISTICS), weights=student.stem
        )
    stride = STEM
    for stage, channels in enumerate(sizes.vision_channels):
        below_cells = images * (sizes.image_size // stride) ** 2
        if stage and stride < sizes.stride:
            stride *= 2
        cells = images * (sizes.image_size // stride) ** 2
        trained = whole or (stage == 3 and row.vision_encoder == "last stage")
        if stage and trained:  # input of the norm, input of the convolution
            below = sizes.vision_channels[stage - 1]
            size = below_cells * (below * (formats.stream + formats.product) + STATISTICS)
            yield Kept("downsampling", size, weights=student.downsampling(stage))
        for number in range(sizes.vision_blocks[stage]):
            last = stage == 3 and number == sizes.vision_blocks[3] - 1
            if trained or (last and row.vision_encoder == "last block"):
                # Inputs of the depthwise convolution, the norm and both layers of the MLP (C, C, C, 4 C), the input of
                # GELU (4 C), and what layer scale multiplies (C); the response norm keeps its input and its product.
                wide = 4 + 4 + (8 if student.response_norm else 0)
                size = channels * ((2 + int(student.layer_scale) + wide) * formats.product + formats.norm) + STATISTICS
                weights = student.vision_block(channels)
                yield Kept("encoder block", cells * size, True, cells * channels * formats.stream, weights)
    # Inputs of both layers and of the activation.
    width = sizes.vision_channels[3] + 2 * sizes.hidden
    yield Kept("adapter", images * sizes.cells * width * formats.product, weights=student.adapter)


def _language(student: Student, row: StageRow, batch: MicroBatch, formats: Formats) -> Iterator[Kept]:
    sizes, tokens = student.sizes, batch.tokens
    trains, gradient = row.language_model, row.language_model
    block = tokens * sizes.hidden * formats.stream
    at = set(sizes.cross_attention_layers)
    attention = 2 * sizes.hidden * sizes.head_dim * (sizes.heads + sizes.key_heads)
    mlp = 3 * sizes.hidden * sizes.intermediate
    # The visual tokens, which keys and values of all cross-attention layers are computed from.
    yield Kept("visual tokens", batch.images * sizes.cells * sizes.hidden * formats.product)
    for position in range(sizes.text_layers + (0 if sizes.in_block else len(at))):
        crosses, speaks = position in at, sizes.in_block or position not in at
        size = weights = 0
        if speaks and gradient:
            size += _norm(sizes, formats, trains, products=3) * tokens
            size += tokens * _attention(sizes, formats, 2 * sizes.heads * sizes.head_dim, batch.longest)
            weights += attention
        if crosses:
            size += _norm(sizes, formats, True, products=1) * tokens
            size += tokens * _attention(sizes, formats, 0, sizes.cells)
            size += batch.rows * sizes.cells * 2 * sizes.heads * sizes.head_dim * formats.product  # keys and values
            weights += attention
            gradient = True
        if gradient:
            trained = trains if speaks else row.cross_attention
            size += _norm(sizes, formats, trained, products=2) * tokens
            # What SiLU, the product of gate and up, and (if it trains) the last layer read.
            size += tokens * sizes.intermediate * formats.product * (4 if trained else 3)
            yield Kept("cross-attention layer" if not speaks else "text layer", size, True, block, weights + mlp)
    width = _norm(sizes, formats, trains, products=0)
    yield Kept("final norm", tokens * width)
    # The log-probabilities of the target tokens in fp32, and the head's input if it trains.
    targets = batch.target_tokens * (sizes.vocabulary * 4 + sizes.hidden * formats.product * int(trains))
    yield Kept("head", targets, weights=student.embedding)


def _norm(sizes: Sizes, formats: Formats, trained: bool, products: int) -> int:
    """Bytes per token of a norm of the language model, and of the inputs of so many `products` behind it."""
    size = 4 * sizes.hidden + 4  # its input in fp32
    if trained:
        copies = products if formats.casts else min(1, products)
        size += sizes.hidden * (formats.stream + copies * formats.product)
    return size


def _attention(sizes: Sizes, formats: Formats, keys: int, seen: int) -> int:
    """Bytes per query token: queries, output and their logarithms of sums, the mask, and `keys` of each token.

    With a mask (rows are padded), keys and values are repeated for all query heads.
    """
    return (2 * sizes.heads * sizes.head_dim + keys + seen) * formats.product + 4 * sizes.heads
