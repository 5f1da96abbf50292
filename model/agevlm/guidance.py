"""The guidance loss of eq. 3 (paper section 3.2.2).

Shapes: B rows, T text tokens, S cells.
"""

from __future__ import annotations

import torch

# Attention mass below this counts as this and gets no gradient: -log stays finite (69). It is reached only where all
# heads and all query tokens give every cell of M' less than this.
SMALLEST_MASS = 1e-30


def guidance_loss(
    map_BS: torch.Tensor, target_BS: torch.Tensor, normalisation: str = "sum"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 3 per row: -log of the dice of M' and the normalised map P, and the attention mass inside M'.

        dice(P, M') = 2 sum(P M') / (sum(P) + sum(M'))

    "sum": P sums to 1, as the paper writes; then L_g = -log(mass inside M') + log((k + 1) / 2) for a mask of k cells.
    "max": P's largest cell is 1, a true soft dice whose floor is 0.

    Args:
        map_BS: query-averaged attention maps, any number of leading dimensions.
        target_BS: M', bool.

    Returns: loss and mass, both (B,) in the map's dtype; (0, 0) for a row whose M' is empty.
    """
    mask_BS = target_BS.to(map_BS.dtype)
    share_BS = map_BS / map_BS.sum(-1, keepdim=True).clamp_min(SMALLEST_MASS)
    mass_B = (share_BS * mask_BS).sum(-1)
    if normalisation == "sum":
        p_BS = share_BS
    elif normalisation == "max":
        p_BS = map_BS / map_BS.amax(-1, keepdim=True).clamp_min(SMALLEST_MASS)
    else:
        raise ValueError(f"guidance_normalisation is {normalisation!r}; choose 'sum' or 'max'")
    inside_B = (p_BS * mask_BS).sum(-1).clamp_min(SMALLEST_MASS)
    both_B = (mask_BS.sum(-1) + p_BS.sum(-1)).clamp_min(SMALLEST_MASS)
    loss_B = both_B.log() - inside_B.log() - inside_B.new_full((), 2.0).log()
    empty_B = ~target_BS.bool().any(-1)
    return loss_B.masked_fill(empty_B, 0.0), mass_B.masked_fill(empty_B, 0.0)


def rows_that_count(
    guidance_mask_BS: torch.Tensor,
    query_mask_BT: torch.Tensor,
    guided_B: torch.Tensor | None,
    has_image_B: torch.Tensor | None,
    key_mask_BS: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """M' and t_q of the rows that count, all False in the others.

    A row counts that is marked as guided, has an image and a query token, and at least one cell in M' that attention
    may look at. Others are left out of the sum and of the number of rows, so that no log(0) and no 0/0 can arise.

    Args: all bool; None for `guided_B`, `has_image_B` and `key_mask_BS` stands for all True.

    Returns: M' (B, S) and t_q (B, T).
    """
    target_BS = guidance_mask_BS if key_mask_BS is None else guidance_mask_BS & key_mask_BS
    counts_B = target_BS.any(-1) & query_mask_BT.any(-1)
    for flag_B in (guided_B, has_image_B):
        if flag_B is not None:
            counts_B = counts_B & flag_B
    return target_BS & counts_B[:, None], query_mask_BT & counts_B[:, None]


__all__ = ["guidance_loss", "rows_that_count"]
