"""Cross-attention of eq. 2: queries from the text, keys and values from the image cells.

Shapes: B rows, T text tokens, S image cells, D hidden size, H query heads, K key heads, E head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaRMSNorm,
    eager_attention_forward,
)

from .attention_map import MapQuery, query_averaged_map
from .inputs import to_device


class ImageKeysValues(CacheLayerMixin):  # type: ignore[misc]
    """The keys and values of one image in one cross-attention layer, kept while its answer is generated.

    It is stored in the generation cache behind the text layers, so that beam search reorders it with them. It never
    grows, and cropping the text does not change it. `key_mask` (B, S) and `has_image` (B,) are stored with it, so later
    steps need no image argument.
    """

    is_sliding = False
    is_croppable = True
    is_compileable = True  # of fixed size: else a static cache of the text would lose the mask over its empty slots
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.keys: torch.Tensor | None
        self.values: torch.Tensor | None
        self.key_mask: torch.Tensor | None = None
        self.has_image: torch.Tensor | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the image's keys and values (B, K, S, E); a second image replaces the first."""
        self.lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states, value_states
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length(), 0

    def get_seq_length(self) -> int:
        return 0 if self.keys is None else int(self.keys.shape[-2])

    def get_max_length(self) -> int:
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Text tokens were taken back; the image stays."""

    def reset(self) -> None:
        self.keys = self.values = self.key_mask = self.has_image = None
        self.is_initialized = False

    def _each(self, change: Any) -> None:
        for name in ("keys", "values", "key_mask", "has_image"):
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, change(tensor))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self._each(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each(lambda t: t.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._each(lambda t: t[indices, ...])


def attach_image_cache(cache: Cache, num_text_layers: int, num_cross_attention_layers: int) -> None:
    """Make room in `cache` for the images, behind the `num_text_layers` layers of the text."""
    if len(cache.layers) >= num_text_layers + num_cross_attention_layers:
        return
    while len(cache.layers) < num_text_layers:
        cache.layers.append(cache.layer_class_to_replicate())
    cache.layers.extend(ImageKeysValues() for _ in range(num_cross_attention_layers))


@dataclass
class ImageContext:
    """Masks and map query of one forward pass, shared by all cross-attention modules.

    key_mask_BS: cells that may be looked at, at least one per row; None for all.
    has_image_B: rows with an image; the others get exactly zero. None when every row has one.
    map_query: the text whose averaged map is wanted (guidance, analysis); None for no map.
    """

    key_mask_BS: torch.Tensor | None
    has_image_B: torch.Tensor | None
    map_query: MapQuery | None = None

    def to(self, device: torch.device) -> ImageContext:
        """A copy on another device: with a device map, accelerate moves only a layer's tensor arguments."""
        query = self.map_query
        tensors = (self.key_mask_BS, self.has_image_B, None if query is None else query.query_mask_BT)
        if all(t is None or t.device == device for t in tensors):
            return self
        return ImageContext(
            to_device(self.key_mask_BS, device),
            to_device(self.has_image_B, device),
            None if query is None else query.to(device),
        )

    @classmethod
    def from_masks(
        cls, cell_mask_BS: torch.Tensor | None, has_image_B: torch.Tensor | None, mask_padding: bool
    ) -> ImageContext:
        """The context of new images: `cell_mask_BS` marks cells with at least one image pixel; None for all cells."""
        if cell_mask_BS is None:
            return cls(None, has_image_B)
        # A row without any cell has no image. Rows without an image look at all cells, and their result is dropped: a
        # softmax over nothing would be NaN.
        any_cell_B = cell_mask_BS.any(-1)
        has_image_B = any_cell_B if has_image_B is None else has_image_B & any_cell_B
        return cls(cell_mask_BS | ~has_image_B[:, None] if mask_padding else None, has_image_B)

    @classmethod
    def from_cache(cls, cache: Cache | None, num_text_layers: int) -> ImageContext | None:
        """The context of a later generation step; None if the cache holds no image."""
        if cache is None or len(cache.layers) <= num_text_layers:
            return None
        layer = cache.layers[num_text_layers]
        if not isinstance(layer, ImageKeysValues) or not layer.is_initialized:
            return None
        return cls(key_mask_BS=layer.key_mask, has_image_B=layer.has_image)

    def zero_without_image(self, update_BTD: torch.Tensor) -> torch.Tensor:
        """Set rows without an image to exactly zero, in value and gradient; all parameters stay in the graph."""
        if self.has_image_B is None:
            return update_BTD
        zero = torch.zeros((), dtype=update_BTD.dtype, device=update_BTD.device)
        return torch.where(self.has_image_B[:, None, None], update_BTD, zero)


class CrossAttention(nn.Module):
    """CrossAttention(Q, K, V) of eq. 2: Q from the text, K and V from the adapter's output, no rotary position.

    As many query heads as the backbone, and the backbone's key heads; `index` counts the model's cross-attention
    modules from 0, `cache_index` is its place in the generation cache.
    """

    def __init__(self, config: LlamaConfig, index: int) -> None:
        super().__init__()
        self.config, self.index = config, index
        self.cache_index = config.num_hidden_layers + index
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        width, keys = config.hidden_size, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(width, config.num_attention_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, keys, bias=False)
        self.v_proj = nn.Linear(width, keys, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, width, bias=False)
        self.o_proj.is_output_projection = True  # type: ignore[assignment]  # zero at first, see _init_weights

    def _keys_values(
        self, visual_BSD: torch.Tensor | None, image: ImageContext, cache: Cache | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if visual_BSD is None:
            layer = cache.layers[self.cache_index]  # type: ignore[union-attr]
            return layer.keys, layer.values
        shape = (*visual_BSD.shape[:2], -1, self.head_dim)
        k_BKSE = self.k_proj(visual_BSD).view(shape).transpose(1, 2)
        v_BKSE = self.v_proj(visual_BSD).view(shape).transpose(1, 2)
        if cache is not None:
            layer = cache.layers[self.cache_index]
            layer.update(k_BKSE, v_BKSE)
            layer.key_mask, layer.has_image = image.key_mask_BS, image.has_image_B
        return k_BKSE, v_BKSE

    def forward(
        self,
        hidden_BTD: torch.Tensor,
        visual_BSD: torch.Tensor | None,
        image: ImageContext,
        cache: Cache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the update of the text (B, T, D), and the averaged map (B, S) if one is asked for.

        `visual_BSD`: the adapter's outputs; None when keys and values come from the cache.
        """
        image = image.to(hidden_BTD.device)
        if visual_BSD is not None:
            visual_BSD = visual_BSD.to(hidden_BTD.device)
        batch, tokens, _ = hidden_BTD.shape
        q_BHTE = self.q_proj(hidden_BTD).view(batch, tokens, -1, self.head_dim).transpose(1, 2)
        k_BKSE, v_BKSE = self._keys_values(visual_BSD, image, cache)
        mask_B1TS = None
        if image.key_mask_BS is not None:
            mask_B1TS = image.key_mask_BS[:, None, None, :].expand(-1, 1, tokens, -1)
        name = self.config._attn_implementation
        if name == "eager" and mask_B1TS is not None:  # eager adds its mask, sdpa takes it as bool
            lowest = torch.finfo(q_BHTE.dtype).min
            mask_B1TS = torch.zeros_like(mask_B1TS, dtype=q_BHTE.dtype).masked_fill(~mask_B1TS, lowest)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        out_BTHE, _ = attend(
            self, q_BHTE, k_BKSE, v_BKSE, mask_B1TS, dropout=0.0, scaling=self.scaling, is_causal=False
        )
        out_BTD = self.o_proj(out_BTHE.reshape(batch, tokens, -1))
        map_BS = None
        if image.map_query is not None:
            map_BS = query_averaged_map(q_BHTE, k_BKSE, image.map_query, self.scaling)
        return image.zero_without_image(out_BTD), map_BS


class CrossAttentionLayer(GradientCheckpointingLayer):  # type: ignore[misc]
    """A layer of its own in the expanded stack (`cross_attention="layer"`): eq. 2 with its own MLP.

        H_CA = H + CrossAttention(RMSNorm(H), I')
        H_CA = H_CA + MLP(RMSNorm(H_CA))

    The paper writes no norm on the query; we keep one for stability. Rows without an image pass through unchanged.
    """

    def __init__(self, config: LlamaConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.cross_attn = CrossAttention(config, index)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = LlamaMLP(config)
        self.mlp.down_proj.is_output_projection = True

    def forward(
        self,
        hidden_BTD: torch.Tensor,
        visual_BSD: torch.Tensor | None,
        image: ImageContext,
        past_key_values: Cache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the hidden states (B, T, D) and the averaged map (B, S) or None.

        The visual tokens are a positional argument, because re-entrant activation checkpointing finds gradients only
        there.
        """
        image = image.to(hidden_BTD.device)
        update_BTD, map_BS = self.cross_attn(self.input_layernorm(hidden_BTD), visual_BSD, image, past_key_values)
        hidden_BTD = hidden_BTD + update_BTD
        update_BTD = image.zero_without_image(self.mlp(self.post_attention_layernorm(hidden_BTD)))
        return hidden_BTD + update_BTD, map_BS


class CrossAttentionBlock(LlamaDecoderLayer):  # type: ignore[misc]
    """A Llama block with cross-attention between its self-attention and its own MLP (`cross_attention="in_block"`)."""

    def __init__(self, config: LlamaConfig, layer_idx: int, index: int) -> None:
        super().__init__(config, layer_idx)
        self.cross_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.cross_attn = CrossAttention(config, index)

    def forward(
        self,
        hidden_BTD: torch.Tensor,
        visual_BSD: torch.Tensor | None,
        image: ImageContext | None,
        past_key_values: Cache | None = None,
        **text_kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the hidden states (B, T, D) and the averaged map (B, S) or None. No `image`: a plain Llama block."""
        map_BS = None
        attended_BTD, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_BTD), past_key_values=past_key_values, **text_kwargs
        )
        hidden_BTD = hidden_BTD + attended_BTD
        if image is not None:
            query_BTD = self.cross_attention_layernorm(hidden_BTD)
            update_BTD, map_BS = self.cross_attn(query_BTD, visual_BSD, image, past_key_values)
            hidden_BTD = hidden_BTD + update_BTD
        return hidden_BTD + self.mlp(self.post_attention_layernorm(hidden_BTD)), map_BS


__all__ = ["CrossAttention", "CrossAttentionBlock", "CrossAttentionLayer", "ImageContext", "ImageKeysValues"]
