"""The query-averaged attention map A_l^q that eq. 3 is computed from (paper section 3.2.2).

A_l^q is one distribution over cells per row: the softmax weights of a cross-attention layer, averaged over all heads
and over the query's text tokens. `naive_query_averaged_map` is that sentence in code. Autograd would keep heads x
tokens x cells for it. But the average's gradient is the same for every head and token,

    d a[s] / d A[h, t, s] = 1 / (H N),

so `query_averaged_map` rebuilds the softmax in the backward pass, chunk by chunk, from q and k, which cross-attention
keeps anyway. Nothing of size H x N x S outlives its chunk, in either direction. Both forms give the same map and the
same gradient.

Shapes: B rows, H query heads, K key heads, T text tokens, N query tokens of one row, S cells, E head dimension.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .inputs import to_device

# Scores held at once, elements: 4 MiB in fp32, which stays near the cache of a CPU and is one kernel's work on a GPU.
CHUNK_ELEMENTS = 1 << 20
# The lean form is an operator of its own, so that torch.compile takes it whole: its loops follow the data. An exported
# folder carries this file, so the name follows the module's: two copies in one process are two operators.
NAMESPACE = re.sub(r"\W", "_", __name__)


@dataclass(frozen=True)
class MapQuery:
    """The text tokens t_q whose attention is averaged, and the cells that they may look at.

    query_mask_BT: bool; a row without any query token gets a map of zeros.
    key_mask_BS: bool, at least one cell in each row with query tokens; None if every row looks at all cells.
    tokens_BT, cells_BS: the same as positions, int64: those of the True elements first, in order, then the others.
    sizes_B2: numbers of query tokens and of cells of each row, int64, on the CPU: the lean form's loops need them.
    """

    query_mask_BT: torch.Tensor
    key_mask_BS: torch.Tensor | None
    tokens_BT: torch.Tensor
    cells_BS: torch.Tensor | None
    sizes_B2: torch.Tensor

    @classmethod
    def from_masks(cls, query_mask_BT: torch.Tensor, key_mask_BS: torch.Tensor | None, cells: int) -> MapQuery:
        """The query of two bool masks on one device; `cells` is S."""
        query_tokens_B = query_mask_BT.sum(-1)
        cells_B = torch.full_like(query_tokens_B, cells) if key_mask_BS is None else key_mask_BS.sum(-1)
        return cls(
            query_mask_BT,
            key_mask_BS,
            _true_first(query_mask_BT),
            None if key_mask_BS is None else _true_first(key_mask_BS),
            # The host waits for the device here, once for all layers, if the masks are on a device.
            torch.stack([query_tokens_B, cells_B], dim=-1).cpu(),
        )

    def to(self, device: torch.device) -> MapQuery:
        """The same query on another device; the sizes stay on the CPU."""
        return MapQuery(
            to_device(self.query_mask_BT, device),
            to_device(self.key_mask_BS, device),
            to_device(self.tokens_BT, device),
            to_device(self.cells_BS, device),
            self.sizes_B2,
        )


def _true_first(mask_BX: torch.Tensor) -> torch.Tensor:
    return torch.argsort(mask_BX.logical_not().to(torch.uint8), dim=-1, stable=True)


def naive_query_averaged_map(
    q_BHTE: torch.Tensor, k_BKSE: torch.Tensor, query: MapQuery, scaling: float
) -> torch.Tensor:
    """A_l^q, (B, S), as the paper writes it: the reader's explanation, and the reference of the tests."""
    k_BHSE = k_BKSE.repeat_interleave(q_BHTE.shape[1] // k_BKSE.shape[1], dim=1)
    scores_BHTS = q_BHTE @ k_BHSE.transpose(2, 3) * scaling
    if query.key_mask_BS is not None:
        scores_BHTS = scores_BHTS.masked_fill(~query.key_mask_BS[:, None, None, :], float("-inf"))
    of_the_query_BHTS = scores_BHTS.softmax(dim=-1) * query.query_mask_BT[:, None, :, None]
    count_B1 = query.query_mask_BT.sum(-1, keepdim=True).clamp_min(1) * q_BHTE.shape[1]
    return of_the_query_BHTS.sum((1, 2)) / count_B1


def query_averaged_map(q_BHTE: torch.Tensor, k_BKSE: torch.Tensor, query: MapQuery, scaling: float) -> torch.Tensor:
    """A_l^q, (B, S), fp32 (fp64 for fp64 input), without keeping weights. Differentiable once.

    Each row sums to 1 and is exactly 0 outside the cells that it may look at; a row without query tokens is 0.
    """
    out_BS: torch.Tensor = _averaged_map(q_BHTE, k_BKSE, query.tokens_BT, query.cells_BS, query.sizes_B2, scaling)
    return out_BS


class _Row:
    """One row in fp32: its keys (only the cells that it may look at) and its query tokens, chunk by chunk."""

    def __init__(
        self,
        q_HTE: torch.Tensor,
        k_KSE: torch.Tensor,
        tokens_N: torch.Tensor,
        cells: torch.Tensor | slice,
        scaling: float,
    ) -> None:
        self.precise = torch.promote_types(q_HTE.dtype, torch.float32)
        self.q_HTE, self.tokens_N, self.cells, self.scaling = q_HTE, tokens_N, cells, scaling
        self.k_KSE = k_KSE[:, cells].to(self.precise)
        self.k_KES = self.k_KSE.transpose(1, 2).contiguous()

    def chunks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Token positions (n,), their scaled queries by key head (K, H / K * n, E), and softmax weights (K, ., S)."""
        heads, (key_heads, width, cells) = len(self.q_HTE), self.k_KES.shape
        for chunk_n in torch.split(self.tokens_N, max(1, CHUNK_ELEMENTS // max(1, heads * cells))):
            # Grouped-query attention without repeating keys: (H, n, E) is (K, H / K * n, E).
            q_KME = self.q_HTE[:, chunk_n].reshape(key_heads, -1, width).to(self.precise) * self.scaling
            yield chunk_n, q_KME, torch.softmax(torch.bmm(q_KME, self.k_KES), dim=-1)


def _rows(
    q_BHTE: torch.Tensor,
    k_BKSE: torch.Tensor,
    tokens_BT: torch.Tensor,
    cells_BS: torch.Tensor | None,
    sizes_B2: torch.Tensor,
    scaling: float,
) -> Iterator[tuple[int, _Row]]:
    """The rows that have query tokens, with their numbers. About 3 % of a training batch's rows do."""
    for b, (tokens, cells) in enumerate(sizes_B2.tolist()):
        if tokens:
            seen = slice(None) if cells_BS is None else cells_BS[b, :cells]
            yield b, _Row(q_BHTE[b], k_BKSE[b], tokens_BT[b, :tokens], seen, scaling)


@torch.library.custom_op(
    f"{NAMESPACE}::query_averaged_map",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor tokens, Tensor? cells, Tensor sizes, float scaling) -> Tensor",
)
def _averaged_map(q_BHTE: torch.Tensor, k_BKSE: torch.Tensor, *query: Any) -> torch.Tensor:
    # `query`: the further arguments of `_rows`.
    map_BS = _shape_of_map(q_BHTE, k_BKSE).zero_()
    with torch.autocast(q_BHTE.device.type, enabled=False):
        for b, row in _rows(q_BHTE, k_BKSE, *query):
            sum_S = map_BS.new_zeros(row.k_KSE.shape[1])
            for _, _, weights_KMS in row.chunks():
                sum_S += weights_KMS.flatten(0, 1).sum(0)
            map_BS[b, row.cells] = sum_S / (q_BHTE.shape[1] * len(row.tokens_N))
    return map_BS


@torch.library.custom_op(
    f"{NAMESPACE}::query_averaged_map_backward",
    mutates_args=(),
    schema=(
        "(Tensor grad, Tensor q, Tensor k, Tensor tokens, Tensor? cells, Tensor sizes, float scaling)"
        " -> (Tensor, Tensor)"
    ),
)
def _averaged_map_backward(
    grad_BS: torch.Tensor, q_BHTE: torch.Tensor, k_BKSE: torch.Tensor, *query: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    grad_q_BHTE, grad_k_BKSE = torch.zeros_like(q_BHTE), torch.zeros_like(k_BKSE)
    heads = q_BHTE.shape[1]
    with torch.autocast(q_BHTE.device.type, enabled=False):
        for b, row in _rows(q_BHTE, k_BKSE, *query):
            grad_S = grad_BS[b, row.cells].to(row.precise) / (heads * len(row.tokens_N))
            grad_k_KSE = torch.zeros_like(row.k_KSE)
            for chunk_n, q_KME, weights_KMS in row.chunks():
                # Softmax's backward with one upstream gradient for all heads and tokens: A (g - <A, g>).
                grad_scores_KMS = weights_KMS.mul_(grad_S - (weights_KMS @ grad_S)[..., None])
                grad_q_KME = torch.bmm(grad_scores_KMS, row.k_KSE) * row.scaling
                grad_q_BHTE[b, :, chunk_n] = grad_q_KME.reshape(heads, len(chunk_n), -1).to(q_BHTE.dtype)
                grad_k_KSE += torch.bmm(grad_scores_KMS.transpose(1, 2), q_KME)
            grad_k_BKSE[b, :, row.cells] = grad_k_KSE.to(k_BKSE.dtype)
    return grad_q_BHTE, grad_k_BKSE


def _shape_of_map(q_BHTE: torch.Tensor, k_BKSE: torch.Tensor, *_: Any) -> torch.Tensor:
    precise = torch.promote_types(q_BHTE.dtype, torch.float32)
    return q_BHTE.new_empty(q_BHTE.shape[0], k_BKSE.shape[2], dtype=precise)


def _shapes_of_gradients(
    _: torch.Tensor, q_BHTE: torch.Tensor, k_BKSE: torch.Tensor, *__: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(q_BHTE), torch.empty_like(k_BKSE)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, ctx.scaling = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad_BS: torch.Tensor) -> tuple[Any, ...]:
    return (*_averaged_map_backward(grad_BS, *ctx.saved_tensors, ctx.scaling), None, None, None, None)


_averaged_map.register_fake(_shape_of_map)
_averaged_map_backward.register_fake(_shapes_of_gradients)
_averaged_map.register_autograd(_gradients, setup_context=_save_for_backward)


__all__ = ["MapQuery", "naive_query_averaged_map", "query_averaged_map"]
