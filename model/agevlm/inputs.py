"""Check a batch's arguments and convert them to the inputs of the layers.

Shapes: B rows, T text tokens, N images, S image cells, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

Mask = TypeVar("Mask", torch.Tensor, torch.Tensor | None)


def check_shape(name: str, tensor: torch.Tensor | None, *expected: int) -> None:
    """Raise ValueError unless an argument has this shape; None passes."""
    if tensor is not None and tuple(tensor.shape) != expected:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; it must be {expected}, as the batch's tokens and images are"
        )


def check_image_arguments(
    pixel_values: torch.Tensor,
    cell_mask: torch.Tensor | None,
    has_image: torch.Tensor | None,
    rows: int,
    side: int,
    cells: int,
) -> None:
    """Raise ValueError unless pixels, cell mask and flags belong together and to an encoder of `side` pixels."""
    if tuple(pixel_values.shape[1:]) != (3, side, side):
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}; it must be (images, 3, {side}, {side}): RGB, "
            f"{side} x {side} pixels, as AgeVlmProcessor makes it"
        )
    check_shape("has_image", has_image, rows)
    if cell_mask is not None and tuple(cell_mask.shape) != (rows, cells):
        raise ValueError(
            f"cell_mask has shape {tuple(cell_mask.shape)}, the image has {cells} cells in {rows} rows; "
            "take pixel_values and cell_mask from the same AgeVlmProcessor call"
        )


def check_guidance_arguments(
    guidance_mask: torch.Tensor | None,
    query_mask: torch.Tensor | None,
    guided: torch.Tensor | None,
    rows: int,
    tokens: int,
    cells: int,
    cached: bool,
) -> None:
    """Raise ValueError unless the guidance arguments belong together; `cached`: a generation step without pixels."""
    if guidance_mask is None:
        for name, given in (("query_mask", query_mask), ("guided", guided)):
            if given is not None:
                raise ValueError(f"{name} is given without guidance_mask, so nothing would be guided; give both")
        return
    if query_mask is None:
        raise ValueError("query_mask is missing beside guidance_mask; mark the query's text tokens, bool (B, T)")
    if cached or guidance_mask.shape[-1] != cells:
        raise ValueError(
            f"guidance_mask has {guidance_mask.shape[-1]} cells, the image has {'cached' if cached else cells}; make "
            "it with mask_to_cells from the geometry that the processor returned, and pass it together with "
            "pixel_values"
        )
    check_shape("guidance_mask", guidance_mask, rows, cells)
    check_shape("query_mask", query_mask, rows, tokens)
    check_shape("guided", guided, rows)


def to_bool(tensor: Mask, device: torch.device) -> Mask:
    """A mask or flag as bool on a device; None stays None."""
    return None if tensor is None else tensor.to(device=device, dtype=torch.bool)


def to_device(tensor: Mask, device: torch.device) -> Mask:
    """A tensor on a device; the host does not wait for a copy to a GPU. None stays None."""
    if tensor is None or tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def place_of_masks(masks: Sequence[torch.Tensor | None], device: torch.device) -> torch.device:
    """The CPU if all masks are there, else the batch's device.

    Sizes are computed in that place. The host can read them on the CPU without waiting for the batch's device.
    """
    given = [mask for mask in masks if mask is not None]
    return torch.device("cpu") if given and all(mask.device.type == "cpu" for mask in given) else device


def causal_mask(
    config: Any,
    hidden_BTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    position_ids: torch.Tensor,
) -> Any:
    """transformers' `create_causal_mask`; for a mask on the CPU the host does not wait for the batch's device."""
    options: dict[str, Any] = {}
    if attention_mask is not None and attention_mask.dim() == 2 and attention_mask.device != hidden_BTD.device:
        # transformers would ask the device if nothing is masked, for then sdpa needs no mask.
        if past_key_values is None and config._attn_implementation == "sdpa" and bool(attention_mask.bool().all()):
            return None
        attention_mask, options = to_device(attention_mask, hidden_BTD.device), {"allow_is_causal_skip": False}
    return create_causal_mask(
        config=config,
        inputs_embeds=hidden_BTD,
        attention_mask=attention_mask,
        past_key_values=past_key_values,
        position_ids=position_ids,
        **options,
    )


def spread_images(visual_NSD: torch.Tensor, has_image_B: torch.Tensor | None, rows: int) -> torch.Tensor:
    """Put N images at the N rows that have one: a batch with text-only rows need not encode empty pictures.

    `has_image_B` may be on the CPU: its rows are then counted there.

    Returns: (B, S, D), zeros in the other rows. Raises: ValueError if not exactly N rows have an image.
    """
    images = len(visual_NSD)
    if torch.compiler.is_compiling() and has_image_B is not None:  # a graph cannot raise with a number of the data
        torch._assert_async(has_image_B.sum() == images, "has_image does not mark as many rows as there are images")
    elif has_image_B is None or int(has_image_B.sum()) != images:
        raise ValueError(
            f"pixel_values has {images} images for {rows} rows, and has_image marks "
            f"{'none' if has_image_B is None else int(has_image_B.sum())}; give one image per row or one per marked row"
        )
    image_of_row_B = torch.where(has_image_B, has_image_B.long().cumsum(0) - 1, images)  # `images`: the zeros behind
    image_of_row_B = to_device(image_of_row_B, visual_NSD.device)
    zeros_1SD = visual_NSD.new_zeros(1, *visual_NSD.shape[1:])
    return torch.cat([visual_NSD, zeros_1SD]).index_select(0, image_of_row_B)


def text_positions(
    attention_mask: torch.Tensor | None, cache: Cache | None, tokens: int, device: torch.device
) -> torch.Tensor:
    """Positions that count real tokens only, so that left padding moves nothing: (B, T), or (1, T) without a mask."""
    if attention_mask is not None and attention_mask.dim() == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -tokens:]
    past = 0 if cache is None else cache.get_seq_length()
    return torch.arange(past, past + tokens, device=device)[None]


__all__ = [
    "causal_mask",
    "check_guidance_arguments",
    "check_image_arguments",
    "check_shape",
    "place_of_masks",
    "spread_images",
    "text_positions",
    "to_bool",
    "to_device",
]
