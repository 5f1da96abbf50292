"""Configuration of AGE-VLM: a Llama, a ConvNeXt, and the cross-attention that joins them (paper section 3.2.1)."""

from __future__ import annotations

import math
from typing import Any

from transformers import LlamaConfig, PreTrainedConfig

CROSS_ATTENTION_KINDS = ("layer", "in_block")
INITS = ("zero", "normal")
NORMALISATIONS = ("sum", "max")
REDUCTIONS = ("mean", "sum")


def _choice(field: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} is {value!r}; choose one of {', '.join(map(repr, allowed))}")


class _FieldOf:
    """A field of a sub-configuration under the same name in the whole one, to be read and set."""

    def __init__(self, part: str) -> None:
        self.part = part

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        return self if config is None else getattr(getattr(config, self.part), self.name)

    def __set__(self, config: Any, value: Any) -> None:
        setattr(getattr(config, self.part), self.name, value)
        config.check()


class _CheckedConfig(PreTrainedConfig):  # type: ignore[misc]
    """A configuration that is checked also where `from_pretrained` sets fields after it was made."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        made = super().from_dict(config_dict, **kwargs)
        (made[0] if isinstance(made, tuple) else made).check()
        return made

    def check(self) -> None:
        """Raise ValueError naming the field, its value and the remedy."""
        raise NotImplementedError


class AgeVlmVisionConfig(_CheckedConfig):
    """The vision encoder: any timm ConvNeXt, cut after its fourth stage.

    Fields:
        architecture: timm model name, with or without a pretrained tag.
        model_args: extra keyword arguments of `timm.create_model` (depths, dims, output_stride ...).
        image_size: side of the square input, pixels.
        stride: pixels per cell of the fourth stage's map; `image_size` must be a multiple of it.
        hidden_size: channels of the fourth stage.
        image_mean, image_std: per RGB channel, of pixels scaled to 0..1.
    """

    model_type = "agevlm_vision"
    base_config_key = "vision_config"

    architecture: str = "convnext_large_mlp.clip_laion2b_ft_soup_320"
    model_args: Any = None  # dict
    image_size: int = 768
    stride: int = 32
    hidden_size: int = 1536
    image_mean: Any = None  # list of three floats
    image_std: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.model_args = dict(self.model_args or {})
        # The statistics of CLIP, which the paper's encoder was trained with.
        self.image_mean = list(self.image_mean or [0.48145466, 0.4578275, 0.40821073])
        self.image_std = list(self.image_std or [0.26862954, 0.26130258, 0.27577711])
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise ValueError naming the field, its value and the remedy."""
        if self.stride <= 0 or self.image_size <= 0 or self.image_size % self.stride:
            raise ValueError(
                f"vision_config.image_size is {self.image_size}; it must be a positive multiple of the encoder's "
                f"stride {self.stride} pixels"
            )

    @property
    def grid(self) -> int:
        """Cells along one side of the map (24 in the paper)."""
        return self.image_size // self.stride

    @property
    def num_cells(self) -> int:
        """Visual tokens per image (576 in the paper)."""
        return self.grid**2


class AgeVlmConfig(_CheckedConfig):
    """AGE-VLM: text backbone, vision encoder, adapter, cross-attention and guidance loss.

    Fields:
        text_config: the Llama backbone; `num_hidden_layers` counts its own layers only (16 in the paper).
        vision_config: see `AgeVlmVisionConfig`.
        cross_attention: "layer" puts cross-attention in layers of their own, whose indices count in the expanded
            stack; "in_block" puts it between self-attention and MLP of existing blocks (both readings of eq. 2).
        cross_attention_layers: positions, in the expanded stack for "layer", below `num_hidden_layers` for "in_block".
        init: "zero" starts the output projections of cross-attention (and of its MLP) at zero, so that the initial
            model is exactly its text backbone; "normal" draws them like all others.
        adapter_activation: transformers activation between the adapter's two linear layers; "linear" for none.
        mask_padding: exclude cells without any image pixel from cross-attention and guidance (appendix C).
        guidance_normalisation: of the query-averaged map in eq. 3, "sum" as written or "max".
        guidance_reduction: of L_g over the cross-attention layers, "mean" or "sum".
        guidance_weight: lambda of the training objective, L = L_LM + lambda L_g; 1.0 is the paper's.

    `num_hidden_layers` and the other fields of the text backbone that tools ask a configuration for can be read and set
    here too, and so can the `image_size` of the vision encoder.

    Raises: ValueError naming the field, its value and the remedy.
    """

    model_type = "agevlm"
    sub_configs_defaults = {"text_config": LlamaConfig, "vision_config": AgeVlmVisionConfig}  # noqa: RUF012
    # Everything of `AgeVlmOutput` but loss and logits: Trainer.evaluate would gather the rest in the host's memory.
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "past_key_values", "hidden_states", "visual_tokens", "attention_maps", "lm_loss_sum", "lm_tokens",
        "guidance_loss_sum", "guided_rows", "attention_mass_sum", "padding_mass_sum",
    ]  # fmt: skip

    text_config: Any = None  # LlamaConfig, or a dict of its fields
    vision_config: Any = None  # AgeVlmVisionConfig, or a dict of its fields
    cross_attention: str = "layer"
    cross_attention_layers: Any = None  # list of int; None for the paper's
    init: str = "zero"
    adapter_activation: str = "gelu"
    mask_padding: bool = True
    guidance_normalisation: str = "sum"
    guidance_reduction: str = "mean"
    guidance_weight: float = 1.0
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.cross_attention_layers is None:
            self.cross_attention_layers = [2, 7, 12, 17] if self.cross_attention == "layer" else [2, 7, 12]
        self.cross_attention_layers = [int(i) for i in self.cross_attention_layers]
        super().__post_init__(**kwargs)
        # The text backbone decides if the head is tied to the embedding; the top-level flag is only a copy.
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        self.check()

    num_hidden_layers = _FieldOf("text_config")
    hidden_size = _FieldOf("text_config")
    num_attention_heads = _FieldOf("text_config")
    num_key_value_heads = _FieldOf("text_config")
    vocab_size = _FieldOf("text_config")
    max_position_embeddings = _FieldOf("text_config")
    image_size = _FieldOf("vision_config")

    def to_dict(self) -> dict[str, Any]:
        """The fields as in config.json, without the place that a backbone was loaded from."""
        fields: dict[str, Any] = super().to_dict()
        for part in self.sub_configs:
            fields[part].pop("_name_or_path", None)
        return fields

    def check(self) -> None:
        """Raise ValueError naming the field, its value and the remedy."""
        self.vision_config.check()
        _choice("cross_attention", self.cross_attention, CROSS_ATTENTION_KINDS)
        _choice("init", self.init, INITS)
        _choice("guidance_normalisation", self.guidance_normalisation, NORMALISATIONS)
        _choice("guidance_reduction", self.guidance_reduction, REDUCTIONS)
        if not (isinstance(self.guidance_weight, (int, float)) and 0 <= self.guidance_weight < math.inf):
            raise ValueError(
                f"guidance_weight is {self.guidance_weight!r}; give a finite number from 0 on, 1.0 for the paper's"
            )
        at = self.cross_attention_layers
        if not at:
            raise ValueError("cross_attention_layers is []; give at least one position, or use the text backbone alone")
        if at != sorted(set(at)) or at[0] < 0:
            raise ValueError(f"cross_attention_layers is {at}; give distinct, ascending positions from 0 on")
        depth = self.text_config.num_hidden_layers + (len(at) if self.cross_attention == "layer" else 0)
        if at[-1] >= depth:
            stack = "expanded stack" if self.cross_attention == "layer" else "text backbone"
            raise ValueError(
                f"cross_attention_layers is {at}, but the {stack} has {depth} layers (0 to {depth - 1}); "
                "give smaller positions"
            )

    @property
    def num_cross_attention_layers(self) -> int:
        """Number of cross-attention modules (4 in the paper)."""
        return len(self.cross_attention_layers)

    def self_attention_positions(self) -> list[int]:
        """Position of each text layer in `language_model.layers` (for the paper 0, 1, 3, 4, 5, 6, 8 ...)."""
        if self.cross_attention == "in_block":
            return list(range(self.text_config.num_hidden_layers))
        taken = set(self.cross_attention_layers)
        return [i for i in range(self.text_config.num_hidden_layers + len(taken)) if i not in taken]

    @classmethod
    def paper(cls, **overrides: Any) -> AgeVlmConfig:
        """The paper's model: Llama-3.2-1B, ConvNeXt-L at 768 px, cross-attention at 2, 7, 12, 17 (section 3.2.1)."""
        text = LlamaConfig(
            vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
            num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, rms_norm_eps=1e-5,
            tie_word_embeddings=True, bos_token_id=128000, eos_token_id=128009, pad_token_id=128004,
            rope_parameters={
                "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            },
        )  # fmt: skip
        return cls(**{"text_config": text, "vision_config": AgeVlmVisionConfig(), **overrides})


AgeVlmConfig.register_for_auto_class()  # a saved folder carries this code

__all__ = ["AgeVlmConfig", "AgeVlmVisionConfig"]
