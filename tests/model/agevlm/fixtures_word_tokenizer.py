"""A word tokenizer for the tests: one token a word, character offsets, Llama 3's control tokens by default."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LLAMA3_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEXT = "what is the red circle a it yes no user assistant system : many blue square where left right"
WORDS = TEXT.split(" ")


def word_tokenizer(chat: tuple[str, ...] = LLAMA3_TOKENS, unnamed: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Unknown words become <unk>; begin and end of text exist; the last chat token (if any) ends a turn.

    unnamed: special tokens that no attribute of the tokenizer names, as Llama 3 has them.
    """
    special = ["<|pad|>", "<|begin_of_text|>", "<|end_of_text|>", "<unk>", *chat]
    vocabulary = {word: n for n, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(unnamed))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        bos_token="<|begin_of_text|>",
        eos_token=chat[-1] if chat else "<|end_of_text|>",
        unk_token="<unk>",
        additional_special_tokens=list(chat),
    )
