"""The adapter: two linear layers from the encoder's channels to the language model's width (paper section 3.2.1).

Shapes: B images, S visual tokens, C encoder channels, D hidden size of the language model.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_agevlm import AgeVlmConfig


class Adapter(nn.Module):
    """Linear(C, D), an activation, Linear(D, D). The paper names no activation; GELU as in prior work."""

    def __init__(self, config: AgeVlmConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        if config.adapter_activation not in ACT2FN:
            raise ValueError(
                f"adapter_activation is {config.adapter_activation!r}; use a transformers activation such as 'gelu', "
                "or 'linear' for none"
            )
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, width)
        self.act = ACT2FN[config.adapter_activation]
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features_BSC: torch.Tensor) -> torch.Tensor:
        """Return the visual tokens I' of eq. 2: (B, S, D)."""
        out_BSD: torch.Tensor = self.linear_2(self.act(self.linear_1(features_BSC)))
        return out_BSD


__all__ = ["Adapter"]
