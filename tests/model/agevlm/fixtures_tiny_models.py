"""Tiny random AGE-VLMs and batches for the tests."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from model.agevlm.backbones import from_backbones
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration

CELLS = 16  # 64 px at stride 16
VOCABULARY = 97
VISION: dict[str, Any] = {
    "architecture": "convnext_atto",
    "model_args": {"depths": [1, 1, 1, 2], "dims": [8, 8, 16, 16], "output_stride": 16, "ls_init_value": 1.0},
    "image_size": 64,
}


def tiny_llama(seed: int = 0, **overrides: Any) -> LlamaForCausalLM:
    """Four layers, four query heads, two key heads."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, "initializer_range": 0.2,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**settings, **overrides})).eval()


def tiny_model(seed: int = 0, trained: bool = False, **overrides: Any) -> AgeVlmForConditionalGeneration:
    """An AGE-VLM on `tiny_llama`; `trained` draws every weight anew, so that nothing is zero any more."""
    kind = overrides.get("cross_attention", "layer")
    settings = {"cross_attention_layers": [1, 4] if kind == "layer" else [1, 3], **overrides}
    model = from_backbones(tiny_llama(seed), VISION, seed=seed, **settings)
    if trained:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed + 1)
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def batch(rows: int = 3, tokens: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    """Full rows, each with an image whose top rows of cells are padding (a different number in every row)."""
    draw = torch.Generator().manual_seed(seed)
    cell_mask = torch.ones(rows, 4, 4, dtype=torch.bool)
    for row in range(rows):
        cell_mask[row, : row % 3] = False
    return {
        "input_ids": torch.randint(3, VOCABULARY, (rows, tokens), generator=draw),
        "attention_mask": torch.ones(rows, tokens, dtype=torch.long),
        "pixel_values": torch.randn(rows, 3, 64, 64, generator=draw),
        "cell_mask": cell_mask.flatten(1),
    }


def guided_batch(rows: int = 3, tokens: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    """`batch` with labels, and masks that leave row 1 unguided."""
    inputs = batch(rows, tokens, seed)
    draw = torch.Generator().manual_seed(seed + 1)
    query = torch.zeros(rows, tokens, dtype=torch.bool)
    query[:, 2:5] = True
    mask = torch.zeros(rows, 4, 4, dtype=torch.bool)
    mask[:, 2:, :2] = True
    guided = torch.ones(rows, dtype=torch.bool)
    guided[1:2] = False
    labels = inputs["input_ids"].masked_fill(torch.rand(rows, tokens, generator=draw) < 0.4, -100)
    return {**inputs, "labels": labels, "guidance_mask": mask.flatten(1), "query_mask": query, "guided": guided}
