"""The expanded stack: the layers of Llama with cross-attention between them (paper section 3.2.1)."""

from __future__ import annotations

from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

from .configuration_agevlm import AgeVlmConfig
from .cross_attention import CrossAttentionBlock, CrossAttentionLayer


class AgeVlmTextModel(nn.Module):
    """The Llama stack with cross-attention in it. Holds layers only; `AgeVlmModel.look` runs them."""

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


__all__ = ["AgeVlmTextModel"]
