"""Check a batch's arguments and convert them to the inputs of the layers.

Shapes: B rows, T text tokens, N images, S image cells, D hidden size.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache

from .cross_attention import ImageContext
from .guidance import GuidancePlan, select_guided_rows


def check_shape(name: str, tensor: torch.Tensor | None, *expected: int) -> None:
    """Raise ValueError unless an argument has this shape; None passes."""
    if tensor is not None and tuple(tensor.shape) != expected:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; it must be {expected}, as the batch's tokens and images are"
        )


def checked_guidance_plan(
    image: ImageContext,
    visual_BSD: torch.Tensor | None,
    guidance_mask: torch.Tensor,
    query_mask: torch.Tensor | None,
    guided: torch.Tensor | None,
    batch: int,
    tokens: int,
) -> GuidancePlan | None:
    """Check the guidance arguments of `forward` and make the plan from them; None where the image is a dummy.

    Raises: ValueError for shapes that do not belong together, or a missing query mask.
    """
    if visual_BSD is None or visual_BSD.shape[1] != guidance_mask.shape[-1]:
        if visual_BSD is not None and image.has_image_B is not None and visual_BSD.shape[1] == 1:
            return None  # the dummy of an all-text batch: nothing to guide
        cells = "cached" if visual_BSD is None else visual_BSD.shape[1]
        raise ValueError(
            f"guidance_mask has {guidance_mask.shape[-1]} cells, the image has {cells}; make it with "
            "mask_to_cells from the geometry that the processor returned, and pass it together with pixel_values"
        )
    if query_mask is None:
        raise ValueError("query_mask is missing beside guidance_mask; mark the query's text tokens, bool (B, T)")
    check_shape("guidance_mask", guidance_mask, batch, visual_BSD.shape[1])
    check_shape("query_mask", query_mask, batch, tokens)
    check_shape("guided", guided, batch)
    device = visual_BSD.device
    everyone = torch.ones(batch, dtype=torch.bool, device=device)
    return select_guided_rows(
        everyone if guided is None else guided.to(device=device, dtype=torch.bool),
        guidance_mask.to(device=device, dtype=torch.bool),
        query_mask.to(device=device, dtype=torch.bool),
        everyone if image.has_image_B is None else image.has_image_B,
        image.key_mask_BS,
    )


def spread_images(visual_NSD: torch.Tensor, has_image: torch.Tensor | None, batch: int) -> torch.Tensor:
    """Put N images at the N rows that have one: a batch with text-only rows need not encode empty pictures."""
    rows = None if has_image is None else has_image.nonzero().flatten()
    if rows is None or len(rows) != len(visual_NSD):
        raise ValueError(
            f"pixel_values has {len(visual_NSD)} images for {batch} rows, and has_image marks "
            f"{'none' if rows is None else len(rows)}; give one image per row or one per marked row"
        )
    return visual_NSD.new_zeros(batch, *visual_NSD.shape[1:]).index_copy(0, rows.to(visual_NSD.device), visual_NSD)


def text_positions(
    attention_mask: torch.Tensor | None, cache: Cache | None, tokens: int, device: torch.device
) -> torch.Tensor:
    """Positions that count real tokens only, so that left padding moves nothing: (B, T), or (1, T) without a mask."""
    if attention_mask is not None and attention_mask.dim() == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -tokens:]
    past = 0 if cache is None else cache.get_seq_length()
    return torch.arange(past, past + tokens, device=device)[None]


__all__ = ["check_shape", "checked_guidance_plan", "spread_images", "text_positions"]
