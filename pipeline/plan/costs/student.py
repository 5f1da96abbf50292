"""The student of a recipe by its backbones' config.json, without opening the model: sizes and parameters.

Where the backbones are not here yet, the published sizes of well-known ones are taken by their name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from model.errors import ConfigError
from model.stage_table import PARTS, StageRow
from pipeline.compute.hub import is_hub_name
from pipeline.plan.fingerprints import weights_path
from pipeline.plan.recipe import Recipe
from pipeline.training.flops import KERNEL, STEM, Sizes, convnext

PUBLISHED_TEXT: Final[dict[str, dict[str, Any]]] = {
    # config.json of meta-llama/Llama-3.2-1B and -3B
    "llama-3.2-1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
    },
    "llama-3.2-3b": {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Part of a location's last name (in lower case) -> fields of its config.json."""
IMAGE_SIZE, STRIDE = 768, 32
"""Pixels; of a vision backbone whose config.json does not say otherwise (paper, section 3.2.1)."""
NOT_OF_A_CONVNEXT = "weights.vision: {architecture!r} is not a timm ConvNeXt of a known size: {error}"


@dataclass(frozen=True)
class Student:
    """Sizes of a student, and what its parameters follow from beside them."""

    sizes: Sizes
    tied: bool
    """True if the head is the embedding."""
    layer_scale: bool
    response_norm: bool
    """ConvNeXt blocks have a layer scale, a global response norm (ConvNeXt V2)."""
    origin: dict[str, str]
    """'text', 'vision' -> the place that its sizes are from."""

    def parameters(self) -> dict[str, int]:
        """Part of the stage table -> its parameters; a tied head counts once, with the language model."""
        sizes = self.sizes
        text = self.text_layer * sizes.text_layers + self.embedding * (1 if self.tied else 2) + sizes.hidden
        encoder = self.stem + sum(self.downsampling(i) + self.vision_stage(i) for i in range(4))
        cross = self.cross_layer * len(sizes.cross_attention_layers)
        return dict(zip(PARTS, (encoder, self.adapter, cross, text), strict=True))

    def trainable(self, row: StageRow) -> dict[str, int]:
        """Part of the stage table -> its parameters that a stage trains."""
        every = self.parameters()
        vision = {
            "frozen": 0,
            "last block": self.vision_block(self.sizes.vision_channels[3]),
            "last stage": self.downsampling(3) + self.vision_stage(3),
            "whole": every[PARTS[0]],
        }[row.vision_encoder]
        flags = (row.adapter, row.cross_attention, row.language_model)
        return {PARTS[0]: vision} | {part: every[part] * flag for part, flag in zip(PARTS[1:], flags, strict=True)}

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters().values())

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of a head of its own."""
        return self.sizes.vocabulary * self.sizes.hidden

    @property
    def text_layer(self) -> int:
        """Parameters of a layer of the language model."""
        s = self.sizes
        return s.hidden * s.head_dim * 2 * (s.heads + s.key_heads) + 3 * s.hidden * s.intermediate + 2 * s.hidden

    @property
    def cross_layer(self) -> int:
        """Parameters of one cross-attention: with norms and MLP if it is a layer of its own, else with one norm."""
        s = self.sizes
        attention = s.hidden * s.head_dim * 2 * (s.heads + s.key_heads)
        return attention + s.hidden if s.in_block else self.text_layer

    @property
    def adapter(self) -> int:
        """Parameters of the adapter."""
        width = self.sizes.hidden
        return self.sizes.vision_channels[3] * width + width + width * width + width

    @property
    def stem(self) -> int:
        """Parameters of the encoder's stem: a convolution and a norm."""
        return (3 * STEM * STEM + 3) * self.sizes.vision_channels[0]

    def downsampling(self, stage: int) -> int:
        """Parameters before the blocks of a stage: a norm and a 2 x 2 convolution."""
        if stage == 0:
            return 0
        below, channels = self.sizes.vision_channels[stage - 1 : stage + 1]
        return 2 * below + 4 * below * channels + channels

    def vision_stage(self, stage: int) -> int:
        """Parameters of the blocks of a stage."""
        return self.sizes.vision_blocks[stage] * self.vision_block(self.sizes.vision_channels[stage])

    def vision_block(self, channels: int) -> int:
        """Parameters of one ConvNeXt block."""
        plain = (KERNEL * KERNEL + 1) * channels + 2 * channels + 8 * channels * channels + 5 * channels
        return plain + channels * self.layer_scale + 8 * channels * self.response_norm


def student_of(recipe: Recipe) -> Student:
    """The student of a recipe. Raises ConfigError if the sizes of a backbone are not known."""
    text, text_origin = _config(recipe, "text")
    vision, vision_origin = _config(recipe, "vision")
    architecture, arguments = str(vision["architecture"]), dict(vision["model_args"])
    try:
        blocks, channels = convnext(architecture, arguments)
    except ValueError as error:
        raise ConfigError(NOT_OF_A_CONVNEXT.format(architecture=architecture, error=error)) from error
    modern = architecture.startswith("convnextv2")
    heads = int(text["num_attention_heads"])
    sizes = Sizes(
        hidden=int(text["hidden_size"]),
        intermediate=int(text["intermediate_size"]),
        text_layers=int(text["num_hidden_layers"]),
        heads=heads,
        key_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or text["hidden_size"] // heads),
        vocabulary=int(text["vocab_size"]),
        in_block=recipe.student.cross_attention == "in_block",
        cross_attention_layers=recipe.student.cross_attention_layers,
        image_size=int(vision.get("image_size", IMAGE_SIZE)),
        stride=int(arguments.get("output_stride", STRIDE)),
        vision_blocks=blocks,
        vision_channels=channels,
    )
    return Student(
        sizes=sizes,
        tied=bool(text.get("tie_word_embeddings", False)),
        layer_scale=not modern,  # timm ignores an argument of None, so a plain ConvNeXt always has one
        response_norm=modern,
        origin={"text": text_origin, "vision": vision_origin},
    )


def _config(recipe: Recipe, role: str) -> tuple[Mapping[str, Any], str]:
    """The fields of a backbone's config.json, and the place that they are from. Raises ConfigError."""
    name: str = getattr(recipe.weights, role)
    file = _config_file(role, name)
    if file is not None and file.is_file():
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"weights.{role} = '{name}': {file} is not JSON: {error}") from error
        return (_vision_fields(fields) if role == "vision" else fields), str(file)
    short = name.split("@")[0].rstrip("/").split("/")[-1].lower()
    if role == "vision" and short.startswith("convnext"):
        return {"architecture": short, "model_args": {}}, f"timm's {short}; weights.vision = '{name}' is not here"
    for known, fields in PUBLISHED_TEXT.items():
        if role == "text" and known in short:
            return fields, f"the published sizes of {known}; weights.text = '{name}' is not here"
    raise ConfigError(
        f"weights.{role} = '{name}' is not here, so the student's size is not known; get the weights, or at "
        "least their config.json in that folder"
    )


def _config_file(role: str, name: str) -> Path | None:
    """The local config.json of a backbone; None for a hub's repository that is not in this machine's cache."""
    if not is_hub_name(name):
        return weights_path(role, name) / "config.json"
    from huggingface_hub import try_to_load_from_cache

    repository, commit = name.removeprefix("hub:").split("@")
    found = try_to_load_from_cache(repository, "config.json", revision=commit)
    return Path(found) if isinstance(found, str) else None


def _vision_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A vision folder's config.json with timm's short names of the fields replaced."""
    architecture = fields.get("architecture", fields.get("model", ""))
    return {**fields, "architecture": architecture, "model_args": fields.get("model_args", fields.get("kwargs")) or {}}
