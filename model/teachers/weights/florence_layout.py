"""The tensors of a Florence-2, computed from its config.json: names and shapes of transformers' own classes."""

from collections.abc import Iterator, Mapping
from typing import Any

from model.errors import ConfigError
from model.teachers.weights.sam_layout import Shapes

Tensors = Iterator[tuple[str, tuple[int, ...]]]
SHARED = "model.language_model.shared.weight"
TIED = (
    SHARED,
    "lm_head.weight",
    "model.language_model.encoder.embed_tokens.weight",
    "model.language_model.decoder.embed_tokens.weight",
)
"""Names of the one table of embeddings. A checkpoint has SHARED, and may repeat it under the others."""
BART_OFFSET = 2  # BART's positions start at 2
MOST = 2**24
VISION = {
    "in_channels": 3,
    "embed_dim": (128, 256, 512, 1024),
    "depths": (1, 1, 9, 1),
    "patch_size": (7, 3, 3, 3),
    "patch_prenorm": (False, True, True, True),
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "projection_dim": 1024,
    "max_position_embeddings": 50,
    "max_temporal_embeddings": 100,
}
"""Fields of vision_config that decide shapes, with transformers' defaults."""
TEXT = {
    "d_model": 1024,
    "vocab_size": 50265,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "max_position_embeddings": 1024,
}
"""Fields of text_config that decide shapes, with transformers' defaults."""


def florence_tensors(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of the tensors that a checkpoint with this config.json must have; SHARED stands for TIED.

    Raises ConfigError if a field has an impossible value.
    """
    vision, text = _fields(config, "vision_config", VISION), _fields(config, "text_config", TEXT)
    return {**dict(_tower(vision)), **dict(_projector(vision)), **dict(_language(text))}


def _fields(config: Mapping[str, Any], part: str, defaults: dict[str, Any]) -> dict[str, Any]:
    given = config.get(part)
    if not isinstance(given, dict):
        raise ConfigError(f"config.json has no {part}")
    found = {name: given.get(name, default) for name, default in defaults.items()}
    for name, value in found.items():
        items = value if isinstance(value, list | tuple) else [value]
        wanted = isinstance(defaults[name], tuple)
        if (
            wanted != isinstance(value, list | tuple)
            or len(items) > 16
            or not all(_sound(name, item) for item in items)
        ):
            raise ConfigError(f"config.json: {part}.{name} = {str(value)[:40]} is no size of a Florence-2")
    for name in ("encoder_layers", "decoder_layers", "depths"):
        value = found.get(name, 0)
        if sum(value if isinstance(value, list | tuple) else [value]) > 1000:
            raise ConfigError(f"config.json: {part}.{name} = {str(value)[:40]} is no size of a Florence-2")
    stages = len(found.get("embed_dim", ()))
    if any(isinstance(value, list | tuple) and len(value) < stages for value in found.values()):
        raise ConfigError(f"config.json: {part} has lists shorter than its {stages} stages")
    return found


def _sound(name: str, value: Any) -> bool:
    return isinstance(value, float | int if name == "mlp_ratio" else int) and 0 <= value <= MOST


def _tower(vision: Mapping[str, Any]) -> Tensors:
    dims, before = vision["embed_dim"], vision["in_channels"]
    for stage, dim in enumerate(dims):
        conv, size = f"model.vision_tower.convs.{stage}", vision["patch_size"][stage]
        yield from _weights(f"{conv}.conv", dim, before, size, size)
        yield from _weights(f"{conv}.norm", before if vision["patch_prenorm"][stage] else dim)
        for number in range(vision["depths"][stage]):
            for kind, attention in (("spatial_block", "window_attn"), ("channel_block", "channel_attn")):
                block = f"model.vision_tower.blocks.{stage}.{number}.{kind}"
                for part in ("conv1", "conv2"):
                    yield from _weights(f"{block}.{part}", dim, 1, 3, 3)
                for part in ("norm1", "norm2"):
                    yield from _weights(f"{block}.{part}", dim)
                yield f"{block}.{attention}.qkv.weight", (3 * dim, dim)
                if vision["qkv_bias"]:
                    yield f"{block}.{attention}.qkv.bias", (3 * dim,)
                yield from _weights(f"{block}.{attention}.proj", dim, dim)
                hidden = int(dim * vision["mlp_ratio"])
                yield from _weights(f"{block}.ffn.fc1", hidden, dim)
                yield from _weights(f"{block}.ffn.fc2", dim, hidden)
        before = dim


def _projector(vision: Mapping[str, Any]) -> Tensors:
    width, seen, name = vision["projection_dim"], vision["embed_dim"][-1], "model.multi_modal_projector"
    yield f"{name}.image_projection.weight", (width, seen)
    yield from _weights(f"{name}.image_proj_norm", width)
    rows = vision["max_position_embeddings"]
    yield f"{name}.image_position_embed.row_embeddings.weight", (rows, seen // 2)
    yield f"{name}.image_position_embed.column_embeddings.weight", (rows, seen - seen // 2)
    yield f"{name}.visual_temporal_embed.pos_idx_to_embed", (vision["max_temporal_embeddings"], seen)


def _language(text: Mapping[str, Any]) -> Tensors:
    dim = text["d_model"]
    yield SHARED, (text["vocab_size"], dim)
    for side, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn"))):
        name, hidden = f"model.language_model.{side}", text[f"{side}_ffn_dim"]
        yield f"{name}.embed_positions.weight", (text["max_position_embeddings"] + BART_OFFSET, dim)
        yield from _weights(f"{name}.layernorm_embedding", dim)
        for number in range(text[f"{side}_layers"]):
            layer = f"{name}.layers.{number}"
            for attention in attentions:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    yield from _weights(f"{layer}.{attention}.{part}", dim, dim)
                yield from _weights(f"{layer}.{attention}_layer_norm", dim)
            yield from _weights(f"{layer}.fc1", hidden, dim)
            yield from _weights(f"{layer}.fc2", dim, hidden)
            yield from _weights(f"{layer}.final_layer_norm", dim)


def _weights(name: str, *shape: int) -> Tensors:
    """A weight and its bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", (shape[0],)
