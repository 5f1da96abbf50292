"""The language model: the layers of Llama with cross-attention between them (paper section 3.2.1).

Shapes: B rows, T text tokens, S image cells, D hidden size, L cross-attention layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

from .configuration_agevlm import AgeVlmConfig
from .cross_attention import CrossAttentionBlock, CrossAttentionLayer, ImageContext


@dataclass
class StackOutput:
    """Of `AgeVlmTextModel`.

    last_BTD: after the final norm. between: the stack's input, then the output of every layer; empty unless asked for.
    maps_LBS: query-averaged cross-attention of every layer; None unless the image context asks for it.
    """

    last_BTD: torch.Tensor
    between: tuple[torch.Tensor, ...]
    maps_LBS: torch.Tensor | None


class AgeVlmTextModel(nn.Module):
    """The expanded stack of Llama layers and cross-attention, with the embedding before and the norm after it."""

    def __init__(self, config: AgeVlmConfig) -> None:
        super().__init__()
        text = config.text_config
        self.embed_tokens = nn.Embedding(text.vocab_size, text.hidden_size, text.pad_token_id)
        at = {position: index for index, position in enumerate(config.cross_attention_layers)}
        self.layers = nn.ModuleList()
        if config.cross_attention == "in_block":
            for j in range(text.num_hidden_layers):
                block = CrossAttentionBlock(text, j, at[j]) if j in at else LlamaDecoderLayer(text, j)
                self.layers.append(block)
        else:
            own = 0  # a Llama layer keeps its own number, which is its place in the generation cache
            for position in range(text.num_hidden_layers + len(at)):
                if position in at:
                    self.layers.append(CrossAttentionLayer(text, at[position]))
                else:
                    self.layers.append(LlamaDecoderLayer(text, own))
                    own += 1
        self.norm = LlamaRMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(text)

    def forward(
        self,
        hidden_BTD: torch.Tensor,
        visual_BSD: torch.Tensor | None,
        image: ImageContext | None,
        *,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        past_key_values: Cache | None,
        use_cache: bool,
        keep_hidden_states: bool,
    ) -> StackOutput:
        """Run all layers on embedded text.

        Args:
            visual_BSD: the adapter's outputs I' of eq. 2; None when their keys and values are in the cache.
            image: None where no row has an image: cross-attention layers are then left out, as they would add zero.
            attention_mask: causal mask as transformers' `create_causal_mask` makes it.
        """
        for_llama = {
            "attention_mask": attention_mask,
            "position_embeddings": self.rotary_emb(hidden_BTD, position_ids=position_ids),
            "position_ids": position_ids,
            "use_cache": use_cache,
        }
        maps: list[torch.Tensor] = []
        between = [hidden_BTD] if keep_hidden_states else []
        for layer in self.layers:
            map_BS = None
            if isinstance(layer, CrossAttentionLayer):
                if image is not None:
                    hidden_BTD, map_BS = layer(hidden_BTD, visual_BSD, image, past_key_values=past_key_values)
            elif isinstance(layer, CrossAttentionBlock):
                hidden_BTD, map_BS = layer(hidden_BTD, visual_BSD, image, past_key_values=past_key_values, **for_llama)
            else:
                hidden_BTD = layer(hidden_BTD, past_key_values=past_key_values, **for_llama)
            if map_BS is not None:  # with a device map, layers lie on several devices
                maps.append(map_BS.to(maps[0].device if maps else map_BS.device))
            if keep_hidden_states:
                between.append(hidden_BTD)
        return StackOutput(self.norm(hidden_BTD), tuple(between), torch.stack(maps) if maps else None)


__all__ = ["AgeVlmTextModel", "StackOutput"]
