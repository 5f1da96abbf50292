"""The tiny language backbone: a stock Llama trained on the world's sentences without any picture.

It learns the chat format and the prior (half of the answers are no), but nothing about any picture. So a student's
accuracy above the prior comes through cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from model.miniature.language import CAPTION_PROMPTS, caption, questions
from model.miniature.training import Progress, descend, learning_rate, set_learning_rate
from model.miniature.vocabulary import byte_level_bpe, world_texts
from model.miniature.world import TRAINING_SEEDS, Scene, make_scene

WIDTH: Final = 96
SPECIAL: Final = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
)
# Llama 3's format: role in a header, two line feeds, trimmed content, end of turn. Content is a string or a list of
# parts; only its text parts are rendered.
CHAT_TEMPLATE: Final = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if message['content'] is string %}"
    "{{- message['content'] | trim }}"
    "{%- else %}"
    "{%- for part in message['content'] if part['type'] == 'text' %}{{- part['text'] | trim }}{%- endfor %}"
    "{%- endif %}"
    "{{- '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
# Llama 3's pieces: line feeds are never merged with the text behind them, so that a prompt that ends in line feeds is a
# prefix, in tokens, of the conversation that continues it.
PIECES: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
Message = dict[str, str]


@dataclass(frozen=True)
class LlamaSettings:
    """Length and batch size of the training."""

    scenes: int = 4000
    steps: int = 350
    batch: int = 32
    peak: float = 2e-3
    seed: int = 0


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 3's special tokens and a small byte-level BPE: the world's words are single tokens, any text tokenizes."""
    texts = [*world_texts(scenes=400), *CAPTION_PROMPTS, *["system", "user", "assistant", "\n\n"] * 4]
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(texts, list(SPECIAL), size=512, split=PIECES),
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[4],
        pad_token=SPECIAL[5],
        additional_special_tokens=[SPECIAL[1], SPECIAL[2], SPECIAL[3]],
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh Llama of six layers with grouped keys and values and a tied embedding."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=160,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.06,  # the library's 0.02 is meant for widths of thousands
        attention_dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def conversation(scene: Scene, rng: np.random.Generator) -> list[Message]:
    """A caption asked for, or one to three of the scene's questions with their answers, as chat messages."""
    if rng.random() < 0.3:
        said = caption(scene, int(rng.integers(6))).text
        pairs = [(CAPTION_PROMPTS[int(rng.integers(len(CAPTION_PROMPTS)))], said)]
    else:
        asked = questions(scene)
        picks = rng.permutation(len(asked))[: int(rng.integers(1, 4))]
        pairs = [(asked[int(i)].question, asked[int(i)].answer) for i in picks]
    return [m for q, a in pairs for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]


def _batches(
    settings: LlamaSettings, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and attention mask (B, T), padded on the right; an endless stream."""
    rng = np.random.default_rng([settings.seed, 40])
    first = TRAINING_SEEDS + 10_000_000 * settings.seed
    scenes = [make_scene(first + i) for i in range(settings.scenes)]
    while True:
        chats = [conversation(scenes[int(rng.integers(len(scenes)))], rng) for _ in range(settings.batch)]
        texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
        encoded = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        yield encoded["input_ids"], encoded["attention_mask"]


def train_llama(settings: LlamaSettings) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Build and train the tiny Llama on conversations without pictures."""
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, lr=settings.peak, weight_decay=0.05, betas=(0.9, 0.95))
    progress = Progress("llama", settings.steps)
    batches = _batches(settings, tokenizer)
    model.train()
    for step in range(settings.steps):
        set_learning_rate(optimizer, learning_rate(step, settings.steps, settings.peak, warmup=50))
        ids, seen = next(batches)
        logits = model(input_ids=ids, attention_mask=seen).logits[:, :-1]
        loss = F.cross_entropy(logits[seen[:, 1:] == 1], ids[:, 1:][seen[:, 1:] == 1])
        descend(loss, optimizer, params)
        progress.update(step, loss=float(loss.detach()))
    tokenizer.backend_tokenizer.no_padding()  # else the padding of the last batch would be saved with it
    return model.eval(), tokenizer
