"""The two losses of the training objective, as sums (paper section 3.2.2, "overall training objective").

Shapes: B rows, T text tokens, D hidden size, V vocabulary, L cross-attention layers, S image cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_agevlm import AgeVlmConfig
from .guidance import guidance_loss
from .inputs import to_device

IGNORE = -100  # label of a token that is no target


@dataclass(frozen=True)
class LmLoss:
    """Cross-entropy summed over target tokens (fp32 scalar), and their number (int64 scalar)."""

    total: torch.Tensor
    tokens: torch.Tensor


def lm_loss(
    head: nn.Module, hidden_BTD: torch.Tensor, logits_BTV: torch.Tensor | None, labels_BT: torch.Tensor
) -> LmLoss:
    """Next-token loss. Without full logits the head runs on target positions only.

    Labels on the CPU are counted there, so that the host does not wait for the device of the hidden states.
    """
    device, target_BT = hidden_BTD.device, labels_BT[:, 1:]
    is_target_BT = target_BT != IGNORE
    if logits_BTV is not None and logits_BTV.shape[1] == labels_BT.shape[1]:
        logits_NV, target_N = logits_BTV[:, :-1].flatten(0, 1), to_device(target_BT.flatten(), device)
    elif torch.compiler.is_compiling():  # the shapes of a graph cannot follow the data
        logits_NV, target_N = head(hidden_BTD[:, :-1]).flatten(0, 1), to_device(target_BT.flatten(), device)
    else:
        row_N, place_N = is_target_BT.nonzero(as_tuple=True)
        position_N = to_device(row_N * labels_BT.shape[1] + place_N, device)
        logits_NV = head(hidden_BTD.flatten(0, 1).index_select(0, position_N))
        target_N = to_device(target_BT[row_N, place_N], device)
    precise = torch.promote_types(logits_NV.dtype, torch.float32)
    total = F.cross_entropy(logits_NV.to(precise), target_N, ignore_index=IGNORE, reduction="sum")
    return LmLoss(total, to_device(is_target_BT.sum(), device))


@dataclass(frozen=True)
class GuidanceSums:
    """Per cross-attention layer (L,), summed over the `rows` that count: eq. 3, mass inside M', mass on padding."""

    loss_L: torch.Tensor
    rows: torch.Tensor
    mass_L: torch.Tensor
    padding_L: torch.Tensor


def guidance_sums(
    maps_LBS: torch.Tensor | None,
    target_BS: torch.Tensor | None,
    cell_mask_BS: torch.Tensor | None,
    config: AgeVlmConfig,
    device: torch.device,
) -> GuidanceSums:
    """The guidance loss of one forward pass; zeros where there is no image, so no map.

    Args:
        maps_LBS: zeros in rows that do not count. target_BS: M' of the rows that count, all False in others.
        cell_mask_BS: cells with image pixels; None for all.
    """
    if target_BS is None or maps_LBS is None:
        zeros_L = torch.zeros(config.num_cross_attention_layers, device=device)
        return GuidanceSums(zeros_L, torch.zeros((), dtype=torch.long, device=device), zeros_L, zeros_L)
    target_BS = target_BS.to(maps_LBS.device)
    loss_LB, mass_LB = guidance_loss(maps_LBS, target_BS, config.guidance_normalisation)
    padding_L = mass_LB.new_zeros(len(mass_LB))
    if cell_mask_BS is not None:
        padding_BS = to_device(~cell_mask_BS.bool(), maps_LBS.device)
        padding_L = (maps_LBS.detach() * padding_BS).sum((-1, -2))
    return GuidanceSums(loss_LB.sum(-1), target_BS.any(-1).sum(), mass_LB.detach().sum(-1), padding_L)


__all__ = ["GuidanceSums", "LmLoss", "guidance_sums", "lm_loss"]
