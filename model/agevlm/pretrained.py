"""The base class of AGE-VLM's models: device maps, activation checkpointing, attention kernels, initialisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_agevlm import AgeVlmConfig
from .vision import ConvNextTower


class AgeVlmPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """The base of both model classes."""

    config_class = AgeVlmConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    # timm's own blocks too: a device map may not cut through a residual connection.
    _no_split_modules = [  # noqa: RUF012
        "LlamaDecoderLayer",
        "CrossAttentionLayer",
        "CrossAttentionBlock",
        "ConvNeXtBlock",
    ]
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: AgeVlmConfig) -> None:
        super().__init__(config)
        # transformers sets the attention implementation per PreTrainedModel; our Llama layers are not wrapped in one
        # and read it from the text configuration.
        config.text_config._attn_implementation = self.config._attn_implementation

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # Marked on the projection itself: transformers visits only modules with weights of their own in custom code.
        if self.config.init == "zero" and getattr(module, "is_output_projection", False):
            init.zeros_(module.weight)
        gamma = getattr(module, "gamma", None)
        if isinstance(gamma, nn.Parameter):  # ConvNeXt's layer scale; timm's default where the recipe names none
            init.constant_(gamma, self.config.vision_config.model_args.get("ls_init_value") or 1e-6)

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        super()._set_gradient_checkpointing(enable, *args, **kwargs)
        for module in self.modules():
            if isinstance(module, ConvNextTower):
                module.trunk.set_grad_checkpointing(enable)


__all__ = ["AgeVlmPreTrainedModel"]
