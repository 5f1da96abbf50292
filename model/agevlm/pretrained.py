"""The base class of AGE-VLM's models: device maps, activation checkpointing, attention kernels, initialisation."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_agevlm import AgeVlmConfig
from .vision import ConvNextTower

# The class that each auto class opens from a saved folder, which carries the code. transformers writes one of them.
AUTO_CLASSES = {
    "AutoModel": "modeling_agevlm.AgeVlmModel",
    "AutoModelForImageTextToText": "modeling_agevlm.AgeVlmForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_agevlm.AgeVlmForConditionalGeneration",
}


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
        # All attention is in the layers of the text. They read the text configuration and are not wrapped in a
        # PreTrainedModel of their own, so the whole model has one implementation, and all configurations name it.
        if config.text_config._attn_implementation is not None:
            config._attn_implementation = config.text_config._attn_implementation
        super().__init__(config)
        config._attn_implementation = self.config._attn_implementation

    def set_attn_implementation(
        self, attn_implementation: str | dict[str, str], allow_all_kernels: bool = False
    ) -> None:
        """As in transformers; of a dict the entry "text_config" counts, or "" for the whole model."""
        chosen = attn_implementation
        if isinstance(attn_implementation, dict):
            present = self.config._attn_implementation
            chosen = attn_implementation.get("text_config", attn_implementation.get("", present))
        super().set_attn_implementation({"": chosen}, allow_all_kernels)
        self.config._attn_implementation = self.config._attn_implementation  # sets it in the sub-configurations too

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers, with every auto class that can open the folder named in its config.json."""
        if self._auto_class is not None:
            self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **AUTO_CLASSES}
        super().save_pretrained(save_directory, *args, **kwargs)

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
