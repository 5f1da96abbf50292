"""The vision encoder: a timm ConvNeXt cut after its fourth stage (paper section 3.2.1).

Shapes: B images, H x W pixels, C channels of stage 4, h x w cells, S = h * w visual tokens.
"""

from __future__ import annotations

import timm
import torch
from torch import nn

from .configuration_agevlm import AgeVlmVisionConfig


class ConvNextTower(nn.Module):
    """A timm ConvNeXt. `trunk` is timm's module without its head, so that timm checkpoints load by timm's names.

    Raises: ValueError if timm does not know the architecture, if it is not a four-stage ConvNeXt, or if its stride
    or width differs from the configuration.
    """

    def __init__(self, config: AgeVlmVisionConfig) -> None:
        super().__init__()
        try:
            trunk = timm.create_model(config.architecture, pretrained=False, num_classes=0, **config.model_args)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"vision_config.architecture is {config.architecture!r} with model_args {config.model_args!r}, which "
                f"timm {timm.__version__} cannot build ({error}); name a timm ConvNeXt and its own arguments"
            ) from error
        if not (hasattr(trunk, "stem") and hasattr(trunk, "stages") and len(trunk.stages) == 4):
            raise ValueError(
                f"vision_config.architecture is {config.architecture!r}, which is not a ConvNeXt with a stem and four "
                "stages; name a timm convnext_* or convnextv2_* model"
            )
        last = trunk.feature_info[3]
        for field, said, found in (
            ("stride", config.stride, last["reduction"]),
            ("hidden_size", config.hidden_size, last["num_chs"]),
        ):
            if said != found:
                raise ValueError(
                    f"vision_config.{field} is {said}, but stage 4 of {config.architecture!r} has {found}; "
                    f"set it to {found}"
                )
        # The paper takes the map of stage 4 itself: timm's pooling, norm and classifier are no part of the model.
        trunk.head = nn.Identity()
        self.trunk = trunk

    def forward(self, pixel_values_B3HW: torch.Tensor) -> torch.Tensor:
        """Return the fourth stage's map, row by row: (B, S, C)."""
        features_BChw = self.trunk.forward_features(pixel_values_B3HW)
        tokens_BSC: torch.Tensor = features_BChw.flatten(2).transpose(1, 2)
        return tokens_BSC


__all__ = ["ConvNextTower"]
