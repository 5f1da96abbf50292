"""The guidance loss of eq. 3, and the query-averaged attention map that it is computed from (paper section 3.2.2).

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

from collections.abc import Iterator
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
    """The guided rows of a batch, with their query tokens and target cells. Built once per forward pass.

    rows: row numbers in the batch, length G.
    tokens: per guided row, the positions of its query's text tokens, int64 (N,).
    mask_GS: M' of eq. 3, bool; every row of it has at least one cell.
    cells: per guided row, the cells that attention may look at, int64; None if every row looks at all of them.
    """

    rows: tuple[int, ...]
    tokens: tuple[torch.Tensor, ...]
    mask_GS: torch.Tensor
    cells: tuple[torch.Tensor, ...] | None = None

    def to(self, device: torch.device) -> GuidancePlan:
        """The same plan with its tensors on another device."""
        tokens = tuple(t.to(device) for t in self.tokens)
        cells = None if self.cells is None else tuple(c.to(device) for c in self.cells)
        return GuidancePlan(self.rows, tokens, self.mask_GS.to(device), cells)


def select_guided_rows(
    guided_B: torch.Tensor,
    guidance_mask_BS: torch.Tensor,
    query_mask_BT: torch.Tensor,
    has_image_B: torch.Tensor,
    cell_mask_BS: torch.Tensor | None,
) -> GuidancePlan:
    """The plan of the usable rows: marked as guided, with an image, a query token and at least one valid cell in M'.

    All arguments are bool. `cell_mask_BS` are the cells that attention may look at (None: all). A row that lacks one
    of these does not count, in the sum or in the number of rows, so that no log(0) and no 0/0 can arise.
    """
    mask_BS = guidance_mask_BS if cell_mask_BS is None else guidance_mask_BS & cell_mask_BS
    usable_B = guided_B & has_image_B & mask_BS.any(-1) & query_mask_BT.any(-1)
    # The only point where the host waits for the device: about 3 % of rows are guided, so their sizes must be known.
    rows = usable_B.nonzero().flatten().tolist()
    index_G = torch.tensor(rows, dtype=torch.long, device=mask_BS.device)
    tokens = _positions(query_mask_BT[index_G])
    cells = None if cell_mask_BS is None else _positions(cell_mask_BS[index_G])
    return GuidancePlan(tuple(rows), tokens, mask_BS[index_G], cells)


def _positions(mask_GX: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Per row of a bool matrix, the positions of its True elements."""
    owner, position = mask_GX.nonzero(as_tuple=True)
    counts = torch.bincount(owner, minlength=len(mask_GX)).tolist()
    return tuple(torch.split(position, counts)) if counts else ()


class _Row:
    """One guided row in fp32: its keys (only the cells that it may look at) and its query tokens, chunk by chunk."""

    def __init__(self, q_BHTE: torch.Tensor, k_BKSE: torch.Tensor, plan: GuidancePlan, g: int, scaling: float) -> None:
        self.precise = torch.promote_types(q_BHTE.dtype, torch.float32)
        self.row, self.tokens_N, self.scaling = plan.rows[g], plan.tokens[g], scaling
        self.cells = slice(None) if plan.cells is None else plan.cells[g]
        self.q_HTE = q_BHTE[self.row]
        self.k_KSE = k_BKSE[self.row][:, self.cells].to(self.precise)
        self.k_KES = self.k_KSE.transpose(1, 2).contiguous()

    def chunks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Token positions (n,), their scaled queries by key head (K, H / K * n, E), and softmax weights (K, ., S)."""
        heads, (key_heads, width, cells) = len(self.q_HTE), self.k_KES.shape
        for chunk_n in torch.split(self.tokens_N, max(1, CHUNK_ELEMENTS // max(1, heads * cells))):
            # Grouped-query attention without repeating keys: (H, n, E) is (K, H / K * n, E).
            q_KME = self.q_HTE[:, chunk_n].reshape(key_heads, -1, width).to(self.precise) * self.scaling
            yield chunk_n, q_KME, torch.softmax(torch.bmm(q_KME, self.k_KES), dim=-1)


class _QueryAveragedMap(torch.autograd.Function):
    """The averaged map with a backward pass that recomputes the weights. Differentiable once."""

    @staticmethod
    def forward(
        ctx: Any, q_BHTE: torch.Tensor, k_BKSE: torch.Tensor, plan: GuidancePlan, scaling: float
    ) -> torch.Tensor:
        ctx.save_for_backward(q_BHTE, k_BKSE)
        ctx.plan, ctx.scaling = plan, scaling
        precise = torch.promote_types(q_BHTE.dtype, torch.float32)
        map_GS = torch.zeros(len(plan.rows), k_BKSE.shape[2], dtype=precise, device=q_BHTE.device)
        for g in range(len(plan.rows)):
            row = _Row(q_BHTE, k_BKSE, plan, g, scaling)
            sum_S = map_GS.new_zeros(row.k_KSE.shape[1])
            for _, _, weights_KMS in row.chunks():
                sum_S += weights_KMS.flatten(0, 1).sum(0)
            map_GS[g, row.cells] = sum_S / (q_BHTE.shape[1] * len(row.tokens_N))
        return map_GS

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_GS: torch.Tensor) -> tuple[Any, ...]:
        q_BHTE, k_BKSE = ctx.saved_tensors
        plan: GuidancePlan = ctx.plan
        grad_q_BHTE, grad_k_BKSE = torch.zeros_like(q_BHTE), torch.zeros_like(k_BKSE)
        for g in range(len(plan.rows)):
            row = _Row(q_BHTE, k_BKSE, plan, g, ctx.scaling)
            heads = q_BHTE.shape[1]
            grad_S = grad_GS[g, row.cells].to(row.precise) / (heads * len(row.tokens_N))
            grad_k_KSE = torch.zeros_like(row.k_KSE)
            for chunk_n, q_KME, weights_KMS in row.chunks():
                # Softmax's backward with one upstream gradient for all heads and tokens: A (g - <A, g>).
                grad_scores_KMS = weights_KMS.mul_(grad_S - (weights_KMS @ grad_S)[..., None])
                grad_q_KME = torch.bmm(grad_scores_KMS, row.k_KSE) * ctx.scaling
                grad_q_BHTE[row.row, :, chunk_n] = grad_q_KME.reshape(heads, len(chunk_n), -1).to(q_BHTE.dtype)
                grad_k_KSE += torch.bmm(grad_scores_KMS.transpose(1, 2), q_KME)
            grad_k_BKSE[row.row, :, row.cells] = grad_k_KSE.to(k_BKSE.dtype)
        return grad_q_BHTE, grad_k_BKSE, None, None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def query_averaged_map(
    q_BHTE: torch.Tensor,
    k_BKSE: torch.Tensor,
    plan: GuidancePlan,
    scaling: float,
) -> torch.Tensor:
    """A_l^q of section 3.2.2 for the plan's rows: mean over heads and query tokens of the softmax weights.

    Returns (G, S), fp32 (fp64 for fp64 input); each row sums to 1, and is exactly 0 outside the plan's cells.
    Not compiled: its sizes follow the data.
    """
    with torch.autocast(q_BHTE.device.type, enabled=False):
        out: torch.Tensor = _QueryAveragedMap.apply(q_BHTE, k_BKSE, plan, scaling)
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


__all__ = ["GuidancePlan", "guidance_loss", "query_averaged_map", "select_guided_rows"]
