"""The two losses of the training objective, as sums (paper section 3.2.2, "overall training objective").

Shapes: B rows, T text tokens, D hidden size, V vocabulary, L cross-attention layers, G guided rows, S image cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .guidance import GuidancePlan, guidance_loss

IGNORE = -100  # label of a token that is no target


@dataclass(frozen=True)
class LmLoss:
    """Cross-entropy summed over target tokens (fp32 scalar), and their number (int64 scalar)."""

    total: torch.Tensor
    tokens: torch.Tensor


def lm_loss(
    head: nn.Module, hidden_BTD: torch.Tensor, logits_BTV: torch.Tensor | None, labels_BT: torch.Tensor
) -> LmLoss:
    """Next-token loss. Without full logits the head runs on target positions only."""
    target_BT = labels_BT[:, 1:].to(hidden_BTD.device)
    is_target_BT = target_BT != IGNORE
    if logits_BTV is None or logits_BTV.shape[1] != labels_BT.shape[1]:
        logits_NV = head(hidden_BTD[:, :-1][is_target_BT])
        target_N = target_BT[is_target_BT]
    else:
        logits_NV, target_N = logits_BTV[:, :-1].flatten(0, 1), target_BT.flatten()
    precise = torch.promote_types(logits_NV.dtype, torch.float32)
    total = F.cross_entropy(logits_NV.to(precise), target_N, ignore_index=IGNORE, reduction="sum")
    return LmLoss(total, is_target_BT.sum())


@dataclass(frozen=True)
class GuidanceSums:
    """Per cross-attention layer (L,), summed over the guided `rows`: eq. 3, mass inside M', mass on padding."""

    loss_L: torch.Tensor
    rows: torch.Tensor
    mass_L: torch.Tensor
    padding_L: torch.Tensor


def guidance_sums(
    maps_LGS: torch.Tensor | None,
    plan: GuidancePlan | None,
    cell_mask_BS: torch.Tensor | None,
    normalisation: str,
    num_layers: int,
    device: torch.device,
) -> GuidanceSums:
    """The guidance loss of one forward pass; zeros where there is no map or no guided row."""
    if plan is None or maps_LGS is None:
        zeros_L = torch.zeros(num_layers, device=device)
        return GuidanceSums(zeros_L, torch.zeros((), dtype=torch.long, device=device), zeros_L, zeros_L)
    loss_LG, mass_LG = guidance_loss(maps_LGS, plan.mask_GS.to(maps_LGS.device), normalisation)
    if cell_mask_BS is None:
        padding_L = mass_LG.new_zeros(len(mass_LG))
    else:
        padding_GS = ~cell_mask_BS[list(plan.rows)].to(device=maps_LGS.device, dtype=torch.bool)
        padding_L = (maps_LGS.detach() * padding_GS).sum((-1, -2))
    rows = torch.tensor(len(plan.rows), device=maps_LGS.device)
    return GuidanceSums(loss_LG.sum(-1), rows, mass_LG.detach().sum(-1), padding_L)


__all__ = ["GuidanceSums", "LmLoss", "guidance_sums", "lm_loss"]
