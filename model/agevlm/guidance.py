"""The guidance loss of eq. 3, and the query-averaged attention map that it looks at (paper section 3.2.2).

The loss needs, per guided image, one distribution over cells: the softmax weights of a cross-attention layer averaged
over all heads and over the query's text tokens. Autograd would keep heads x tokens x cells for that. But the average's
gradient is the same for every head and token,

    d a[s] / d A[h, t, s] = 1 / (H N),

so the backward pass can rebuild the softmax chunk by chunk from q and k, which cross-attention keeps anyway. Nothing
of size H x N x S outlives its chunk, in either direction.

Shapes: B rows, G guided rows, H query heads, K key heads, T text tokens, N query tokens of one row, S cells,
E head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Scores held at once, elements: 4 MiB in fp32, which stays near the cache of a CPU and is one kernel's work on a GPU.
CHUNK_ELEMENTS = 1 << 20
# Attention mass below this counts as this: -log stays finite (69), and A is 0 there, so the gradient is 0 anyway.
SMALLEST_MASS = 1e-30


@dataclass(frozen=True)
class GuidancePlan:
    """Which rows are guided, by which of their tokens, towards which cells. Built once per forward pass.

    rows: row numbers in the batch, length G.
    tokens: per guided row, the positions of its query's text tokens, int64 (N,).
    mask_GS: M' of eq. 3, bool; every row of it has at least one cell.
    """

    rows: tuple[int, ...]
    tokens: tuple[torch.Tensor, ...]
    mask_GS: torch.Tensor


def plan_guidance(
    guided_B: torch.Tensor,
    guidance_mask_BS: torch.Tensor,
    query_mask_BT: torch.Tensor,
    has_image_B: torch.Tensor,
    cell_mask_BS: torch.Tensor | None,
) -> GuidancePlan:
    """Choose the rows that count: marked as guided, with an image, a query token and at least one valid cell in M'.

    All arguments are bool. `cell_mask_BS` are the cells that attention may look at (None: all). A row that lacks one
    of these does not count, in the sum or in the number of rows, so that no log(0) and no 0/0 can arise.
    """
    mask_BS = guidance_mask_BS if cell_mask_BS is None else guidance_mask_BS & cell_mask_BS
    usable_B = guided_B & has_image_B & mask_BS.any(-1) & query_mask_BT.any(-1)
    # The only point where the host waits for the device: about 3 % of rows are guided, so their sizes must be known.
    rows = usable_B.nonzero().flatten().tolist()
    index_G = torch.tensor(rows, dtype=torch.long, device=mask_BS.device)
    owner, position = query_mask_BT[index_G].nonzero(as_tuple=True)
    counts = torch.bincount(owner, minlength=len(rows)).tolist() if rows else []
    tokens = tuple(torch.split(position, counts)) if rows else ()
    return GuidancePlan(tuple(rows), tokens, mask_BS[index_G])


def _weights(q_KME: torch.Tensor, k_KSE: torch.Tensor, key_mask_S: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """Softmax weights (K, M, S) of a chunk; cells outside `key_mask_S` get exactly zero."""
    scores_KMS = torch.bmm(q_KME, k_KSE.transpose(1, 2)).mul_(scaling)
    if key_mask_S is not None:
        scores_KMS.masked_fill_(~key_mask_S, float("-inf"))
    return torch.softmax(scores_KMS, dim=-1)


def _chunks(tokens_N: torch.Tensor, heads: int, cells: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.split(tokens_N, max(1, CHUNK_ELEMENTS // max(1, heads * cells))))


class _QueryAveragedMap(torch.autograd.Function):
    """The averaged map with a backward pass that recomputes the weights. Differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BHTE: torch.Tensor,
        k_BKSE: torch.Tensor,
        key_mask_BS: torch.Tensor | None,
        plan: GuidancePlan,
        scaling: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(q_BHTE, k_BKSE, key_mask_BS)
        ctx.plan, ctx.scaling = plan, scaling
        heads, cells = q_BHTE.shape[1], k_BKSE.shape[2]
        precise = torch.promote_types(q_BHTE.dtype, torch.float32)
        map_GS = torch.zeros(len(plan.rows), cells, dtype=precise, device=q_BHTE.device)
        for g, (row, tokens_N) in enumerate(zip(plan.rows, plan.tokens, strict=True)):
            k_KSE = k_BKSE[row].to(precise)
            valid_S = None if key_mask_BS is None else key_mask_BS[row]
            for chunk_n in _chunks(tokens_N, heads, cells):
                q_KME = _by_key_head(q_BHTE[row, :, chunk_n], k_KSE.shape[0]).to(precise)
                map_GS[g] += _weights(q_KME, k_KSE, valid_S, scaling).sum((0, 1))
            map_GS[g] /= heads * len(tokens_N)
        return map_GS

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_GS: torch.Tensor) -> tuple[Any, ...]:
        q_BHTE, k_BKSE, key_mask_BS = ctx.saved_tensors
        plan, scaling = ctx.plan, ctx.scaling
        heads, cells = q_BHTE.shape[1], k_BKSE.shape[2]
        precise = torch.promote_types(q_BHTE.dtype, torch.float32)
        grad_q_BHTE, grad_k_BKSE = torch.zeros_like(q_BHTE), torch.zeros_like(k_BKSE)
        for g, (row, tokens_N) in enumerate(zip(plan.rows, plan.tokens, strict=True)):
            k_KSE = k_BKSE[row].to(precise)
            valid_S = None if key_mask_BS is None else key_mask_BS[row]
            grad_S = grad_GS[g].to(precise) * (scaling / (heads * len(tokens_N)))
            grad_k_KSE = torch.zeros_like(k_KSE)
            for chunk_n in _chunks(tokens_N, heads, cells):
                q_KME = _by_key_head(q_BHTE[row, :, chunk_n], k_KSE.shape[0]).to(precise)
                weights_KMS = _weights(q_KME, k_KSE, valid_S, scaling)
                # Softmax's backward with one upstream gradient for all heads and tokens: A (g - <A, g>).
                grad_scores_KMS = weights_KMS.mul_(grad_S - (weights_KMS @ grad_S)[..., None])
                grad_q_KME = torch.bmm(grad_scores_KMS, k_KSE)
                grad_q_BHTE[row, :, chunk_n] = grad_q_KME.reshape(heads, len(chunk_n), -1).to(q_BHTE.dtype)
                grad_k_KSE += torch.bmm(grad_scores_KMS.transpose(1, 2), q_KME)
            grad_k_BKSE[row] = grad_k_KSE.to(k_BKSE.dtype)
        return grad_q_BHTE, grad_k_BKSE, None, None, None


def _by_key_head(q_HNE: torch.Tensor, key_heads: int) -> torch.Tensor:
    """(H, N, E) to (K, H / K * N, E): grouped-query attention without repeating the keys."""
    heads, tokens, width = q_HNE.shape
    return q_HNE.reshape(key_heads, heads // key_heads * tokens, width)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def query_averaged_map(
    q_BHTE: torch.Tensor,
    k_BKSE: torch.Tensor,
    key_mask_BS: torch.Tensor | None,
    plan: GuidancePlan,
    scaling: float,
) -> torch.Tensor:
    """A_l^q of section 3.2.2 for the plan's rows: mean over heads and query tokens of the softmax weights.

    Returns (G, S), fp32 (fp64 for fp64 input); each row sums to 1, and is exactly 0 outside `key_mask_BS`.
    Not compiled: its sizes follow the data.
    """
    with torch.autocast(q_BHTE.device.type, enabled=False):
        out: torch.Tensor = _QueryAveragedMap.apply(q_BHTE, k_BKSE, key_mask_BS, plan, scaling)
    return out


def guidance_loss(
    map_GS: torch.Tensor, mask_GS: torch.Tensor, normalisation: str = "sum"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 3 per row: -log of the dice of M' and the normalised map P.

    "sum": P sums to 1, as the paper writes; then L_g = -log(mass inside M') + log((k + 1) / 2) for a mask of k cells.
    "max": P's largest cell is 1, a true soft dice whose floor is 0.

    Returns: the loss (G,) and the attention mass inside M' (G,), both in the map's dtype; (0, 0) for an empty mask.
    """
    mask = mask_GS.to(map_GS.dtype)
    share_GS = map_GS / map_GS.sum(-1, keepdim=True).clamp_min(SMALLEST_MASS)
    mass_G = (share_GS * mask).sum(-1)
    if normalisation == "sum":
        p_GS = share_GS
    elif normalisation == "max":
        p_GS = map_GS / map_GS.amax(-1, keepdim=True).clamp_min(SMALLEST_MASS)
    else:
        raise ValueError(f"guidance_normalisation is {normalisation!r}; choose 'sum' or 'max'")
    inside_G = (p_GS * mask).sum(-1).clamp_min(SMALLEST_MASS)
    loss_G = (mask.sum(-1) + p_GS.sum(-1)).log() - inside_G.log() - torch.log(inside_G.new_tensor(2.0))
    empty_G = ~mask_GS.bool().any(-1)
    return loss_G.masked_fill(empty_G, 0.0), mass_G.masked_fill(empty_G, 0.0)


__all__ = ["GuidancePlan", "guidance_loss", "plan_guidance", "query_averaged_map"]
