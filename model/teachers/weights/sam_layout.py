"""The tensors of a SAM, computed from its sizes: names and shapes of segment-anything's classes."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model.errors import ConfigError

Shapes = dict[str, tuple[int, ...]]
POINT_KINDS = 4  # of the prompt encoder: background, foreground, two corners of a box
MASK_TOKENS = 4  # one mask for clear prompts, three for ambiguous ones
DOWNSAMPLED = 2  # the decoder's attention between tokens and image has half the width


@dataclass(frozen=True)
class SamShape:
    """The sizes that the shapes of a SAM's tensors follow from, by their names in config.json.

    image_size and patch_size are in pixels, window_size in tokens.
    """

    encoder_dim: int
    encoder_depth: int
    encoder_heads: int
    global_attention: tuple[int, ...]
    image_size: int = 1024
    patch_size: int = 16
    window_size: int = 14
    prompt_dim: int = 256
    mask_channels: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_dim: int = 256


OFFICIAL: dict[str, SamShape] = {
    "vit_h": SamShape(1280, 32, 16, (7, 15, 23, 31)),
    "vit_l": SamShape(1024, 24, 16, (5, 11, 17, 23)),
    "vit_b": SamShape(768, 12, 12, (2, 5, 8, 11)),
}
"""The published sizes, by their names in segment_anything.sam_model_registry."""
NEEDED = tuple(field.name for field in dataclasses.fields(SamShape))
LARGEST = 2**20
"""No size of a SAM is larger."""


def shape_of(config: Mapping[str, Any]) -> SamShape:
    """The sizes in a folder's config.json. Raises ConfigError if it has none of a SAM."""
    sizes: dict[str, Any] = {name: tuple(v) if isinstance(v := config.get(name), list) else v for name in NEEDED}
    bad = [name for name, value in sizes.items() if not _sound(name, value)]
    if bad:
        raise ConfigError(f"config.json does not hold the sizes of a SAM ({bad[0]})")
    return SamShape(**sizes)


def _sound(name: str, value: Any) -> bool:
    if name == "global_attention":
        return isinstance(value, tuple) and all(type(item) is int for item in value)
    most = 1000 if name.endswith("depth") else LARGEST
    return type(value) is int and 0 < value <= most


def sam_tensors(sam: SamShape) -> Shapes:
    """Names and shapes of all tensors of a SAM."""
    return {**dict(_encoder(sam)), **dict(_prompts(sam)), **dict(_decoder(sam))}


Tensors = Iterator[tuple[str, tuple[int, ...]]]


def _encoder(sam: SamShape) -> Tensors:
    dim, grid, out = sam.encoder_dim, sam.image_size // sam.patch_size, sam.prompt_dim
    yield "image_encoder.pos_embed", (1, grid, grid, dim)
    yield from _weights("image_encoder.patch_embed.proj", dim, 3, sam.patch_size, sam.patch_size)
    for number in range(sam.encoder_depth):
        block = f"image_encoder.blocks.{number}"
        seen = grid if number in sam.global_attention else sam.window_size
        for norm in ("norm1", "norm2"):
            yield from _weights(f"{block}.{norm}", dim)
        for side in ("h", "w"):
            yield f"{block}.attn.rel_pos_{side}", (2 * seen - 1, dim // sam.encoder_heads)
        yield from _weights(f"{block}.attn.qkv", 3 * dim, dim)
        yield from _weights(f"{block}.attn.proj", dim, dim)
        yield from _weights(f"{block}.mlp.lin1", 4 * dim, dim)
        yield from _weights(f"{block}.mlp.lin2", dim, 4 * dim)
    yield "image_encoder.neck.0.weight", (out, dim, 1, 1)
    yield from _weights("image_encoder.neck.1", out)
    yield "image_encoder.neck.2.weight", (out, out, 3, 3)
    yield from _weights("image_encoder.neck.3", out)


def _prompts(sam: SamShape) -> Tensors:
    dim, channels = sam.prompt_dim, sam.mask_channels
    yield "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", (2, dim // 2)
    for number in range(POINT_KINDS):
        yield f"prompt_encoder.point_embeddings.{number}.weight", (1, dim)
    yield "prompt_encoder.not_a_point_embed.weight", (1, dim)
    yield "prompt_encoder.no_mask_embed.weight", (1, dim)
    yield from _weights("prompt_encoder.mask_downscaling.0", channels // 4, 1, 2, 2)
    yield from _weights("prompt_encoder.mask_downscaling.1", channels // 4)
    yield from _weights("prompt_encoder.mask_downscaling.3", channels, channels // 4, 2, 2)
    yield from _weights("prompt_encoder.mask_downscaling.4", channels)
    yield from _weights("prompt_encoder.mask_downscaling.6", dim, channels, 1, 1)


def _decoder(sam: SamShape) -> Tensors:
    dim = sam.prompt_dim
    for number in range(sam.decoder_depth):
        layer = f"mask_decoder.transformer.layers.{number}"
        yield from _attention(f"{layer}.self_attn", dim, dim)
        yield from _attention(f"{layer}.cross_attn_token_to_image", dim, dim // DOWNSAMPLED)
        yield from _attention(f"{layer}.cross_attn_image_to_token", dim, dim // DOWNSAMPLED)
        for norm in range(1, 5):
            yield from _weights(f"{layer}.norm{norm}", dim)
        yield from _weights(f"{layer}.mlp.lin1", sam.decoder_mlp_dim, dim)
        yield from _weights(f"{layer}.mlp.lin2", dim, sam.decoder_mlp_dim)
    yield from _attention("mask_decoder.transformer.final_attn_token_to_image", dim, dim // DOWNSAMPLED)
    yield from _weights("mask_decoder.transformer.norm_final_attn", dim)
    yield "mask_decoder.iou_token.weight", (1, dim)
    yield "mask_decoder.mask_tokens.weight", (MASK_TOKENS, dim)
    for part, shape in (("0", (dim, dim // 4, 2, 2)), ("3", (dim // 4, dim // 8, 2, 2))):  # transposed convolutions
        yield f"mask_decoder.output_upscaling.{part}.weight", shape
        yield f"mask_decoder.output_upscaling.{part}.bias", (shape[1],)
    yield from _weights("mask_decoder.output_upscaling.1", dim // 4)
    for number in range(MASK_TOKENS):
        yield from _mlp(f"mask_decoder.output_hypernetworks_mlps.{number}", dim, dim, dim // 8)
    yield from _mlp("mask_decoder.iou_prediction_head", dim, sam.iou_head_dim, MASK_TOKENS)


def _attention(name: str, dim: int, inner: int) -> Tensors:
    for part in ("q_proj", "k_proj", "v_proj"):
        yield from _weights(f"{name}.{part}", inner, dim)
    yield from _weights(f"{name}.out_proj", dim, inner)


def _mlp(name: str, dim: int, hidden: int, out: int) -> Tensors:
    for number, (wide, narrow) in enumerate(((hidden, dim), (hidden, hidden), (out, hidden))):
        yield from _weights(f"{name}.layers.{number}", wide, narrow)


def _weights(name: str, *shape: int) -> Tensors:
    """A weight and its bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", (shape[0],)
