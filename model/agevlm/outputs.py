"""The outputs of the model, with sums from which a trainer computes exact means over a global batch.

Shapes: B rows, T text tokens, V vocabulary, D hidden size, S image cells, L cross-attention layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput


@dataclass
class AgeVlmModelOutput(ModelOutput):  # type: ignore[misc]
    """Of `AgeVlmModel`.

    last_hidden_state: (B, T, D), after the final norm.
    hidden_states: embedding output, then the output of every layer of the (expanded) stack; only on request.
    visual_tokens: adapter outputs (B, S, D); None without an image or when they come from the cache.
    attention_maps: query-averaged cross-attention (L, B, S), fp32; None without a guidance mask. Rows that count sum to
        1, the others are zero.
    guidance_targets: M' of eq. 3 (B, S), bool, all False in rows that do not count; None without a guidance mask.
    """

    last_hidden_state: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    visual_tokens: torch.Tensor | None = None
    attention_maps: torch.Tensor | None = None
    guidance_targets: torch.Tensor | None = None


@dataclass
class AgeVlmOutput(ModelOutput):  # type: ignore[misc]
    """Of `AgeVlmForConditionalGeneration`.

    loss: L_LM + lambda L_g as means over this batch. A trainer over several ranks or micro-batches divides the sums
        below by its own totals of the counts instead.
    logits: (B, T or fewer, V); None with `return_logits=False`.
    lm_loss_sum, lm_tokens: sum of the cross-entropy and number of target tokens, scalars; None without labels.
    guidance_loss_sum: sum of eq. 3 over the guided rows, per cross-attention layer (L,); None without a guidance mask.
    guided_rows: number of rows in those sums, int64 scalar.
    attention_mass_sum: attention mass inside M', summed likewise (L,), no gradient.
    padding_mass_sum: attention mass on cells without any image pixel, summed likewise (L,), no gradient.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    visual_tokens: torch.Tensor | None = None
    attention_maps: torch.Tensor | None = None
    lm_loss_sum: torch.Tensor | None = None
    lm_tokens: torch.Tensor | None = None
    guidance_loss_sum: torch.Tensor | None = None
    guided_rows: torch.Tensor | None = None
    attention_mass_sum: torch.Tensor | None = None
    padding_mass_sum: torch.Tensor | None = None


__all__ = ["AgeVlmModelOutput", "AgeVlmOutput"]
