"""Byte-level tokenizers for the tiny models: any text tokenizes, the world's words are single tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from model.miniature.language import caption, questions
from model.miniature.world import TRAINING_SEEDS, make_scene


def world_texts(scenes: int) -> Iterator[str]:
    """Captions, questions and answers of the first `scenes` training scenes: every word of the world's language."""
    for seed in range(TRAINING_SEEDS, TRAINING_SEEDS + scenes):
        scene = make_scene(seed)
        yield caption(scene, seed % 4).text
        for asked in questions(scene):
            yield asked.question
            yield asked.answer


def byte_level_bpe(texts: Iterable[str], special: list[str], size: int, split: str | None = None) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `size` entries; `special` get the first ids, in order.

    split: regular expression of the pieces that are never merged with each other; GPT-2's where None.
    """
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    if split is None:
        tokenizer.pre_tokenizer = byte_level
    else:
        pieces = pre_tokenizers.Split(Regex(split), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts), trainer)
    return tokenizer
