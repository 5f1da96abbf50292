"""Scaled-dot-product attention for the image encoder of segment-anything, in place of the package's own.

The package multiplies, adds the bias of the relative positions and takes the softmax one after the other, so a global
layer of ViT-H holds several tensors of heads x 4096 x 4096 per picture. Here the bias is the mask of torch's fused
attention. Same weights and same mathematics; the order of sums differs.
"""

import torch
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT, get_rel_pos
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class FusedAttention(nn.Module):
    """The parameters of an `Attention`, under the same names, with torch's fused attention."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.scale: float = attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.use_rel_pos: bool = attention.use_rel_pos
        if self.use_rel_pos:
            self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend inside each window, (n, height, width, channels) -> the same shape."""
        count, height, width, _ = x.shape
        qkv = self.qkv(x).reshape(count, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (n, heads, height * width, channels of a head)
        bias = self._bias(q, height, width) if self.use_rel_pos else None
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        joined = mixed.transpose(1, 2).reshape(count, height, width, -1)
        found: torch.Tensor = self.proj(joined)
        return found

    def _bias(self, q: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The bias of relative positions, (n, heads, height * width, height * width), in the format of q."""
        rows = get_rel_pos(height, height, self.rel_pos_h).to(q.dtype)
        columns = get_rel_pos(width, width, self.rel_pos_w).to(q.dtype)
        places = q.reshape(*q.shape[:2], height, width, -1)
        by_row = torch.einsum("bnhwc,hkc->bnhwk", places, rows)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", places, columns)
        return (by_row[..., :, None] + by_column[..., None, :]).flatten(4).flatten(2, 3)


def fuse_attention(encoder: ImageEncoderViT) -> None:
    """Give every block of an encoder fused attention. The names of its parameters stay the same."""
    for block in encoder.blocks:
        if isinstance(block.attn, Attention):
            block.attn = FusedAttention(block.attn)
