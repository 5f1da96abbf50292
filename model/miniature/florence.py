"""The tiny Florence-2: the stock class in small, its processor, and its architecture's constants."""

from __future__ import annotations

import math
from typing import Final

import torch
from transformers import (
    BartConfig,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from model.miniature.training import IMAGE_MEAN, IMAGE_STD, PIXEL_SIZE
from model.miniature.vocabulary import byte_level_bpe, world_texts

TASK: Final = "<REFERRING_EXPRESSION_SEGMENTATION>"
GRID: Final = 8  # the tower's map is GRID x GRID; one mean token is put before it
IMAGE_TOKENS: Final = 1 + GRID * GRID
LOCATIONS: Final = 1000  # location tokens an axis, as in the real one
BINS: Final = 50  # the ones that the tiny one learns to use: every 20th
WIDTH: Final = 96
BOS, PAD, EOS, UNK = 0, 1, 2, 3

_POST_PROCESSING: Final[dict[str, dict[str, object]]] = {
    "ocr": {"PATTERN": r"(.+?)<loc_(\d+)><loc_(\d+)><loc_(\d+)><loc_(\d+)>", "AREA_THRESHOLD": 0.0},
    "phrase_grounding": {"banned_grounding_tokens": ["the image"]},
    "pure_text": {},
    "description_with_bboxes": {},
    "description_with_polygons": {},
    "polygons": {},
    "bboxes": {},
    "description_with_bboxes_or_polygons": {},
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """BART's special tokens, a small byte-level BPE, 1000 location tokens, polygon marks and the image token."""
    prompts = [f"Locate {text} in the image with mask" for text in world_texts(scenes=150)]
    core = byte_level_bpe(prompts, ["<s>", "<pad>", "</s>", "<unk>"], size=420)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",  # left padding would shift BART's absolute positions
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<image>"},
    )
    marks = [f"<loc_{i}>" for i in range(LOCATIONS)] + ["<poly>", "</poly>", "<sep>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    return tokenizer


def build_processor() -> Florence2Processor:
    """The stock processor: pictures of PIXEL_SIZE squared, IMAGE_TOKENS image tokens before the prompt."""
    images = CLIPImageProcessor(
        size={"height": PIXEL_SIZE, "width": PIXEL_SIZE},
        do_center_crop=False,
        resample=3,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )
    images.image_seq_length = IMAGE_TOKENS  # read once by the processor: it must be set before
    return Florence2Processor(images, build_tokenizer(), post_processor_config=_POST_PROCESSING)


def build_model(processor: Florence2Processor) -> Florence2ForConditionalGeneration:
    """A fresh model for this processor's vocabulary.

    Two of the initial values differ from the library's; parameters and file format are the same. BART's weights start
    at a scale for their width (its 0.02 is meant for a width of 768), and position and location embeddings start as
    smooth functions of the coordinate, so that neighbours learn together.
    """
    tokenizer = processor.tokenizer
    vision = Florence2VisionConfig(
        depths=(1, 1, 1),
        patch_size=(7, 3, 3),
        patch_stride=(4, 2, 2),
        patch_padding=(3, 1, 1),
        patch_prenorm=(False, True, True),
        embed_dim=(24, 48, WIDTH),
        num_heads=(2, 3, 4),
        num_groups=(2, 3, 4),
        window_size=8,
        mlp_ratio=3.0,
        drop_path_rate=0.0,
        projection_dim=WIDTH,
        max_position_embeddings=GRID,
        max_temporal_embeddings=1,
    )
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=192,
        decoder_ffn_dim=192,
        max_position_embeddings=192,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        init_std=0.08,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=None,
    )
    config = Florence2Config(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.image_token_id,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
    )
    model = Florence2ForConditionalGeneration(config)
    with torch.no_grad():
        shared = model.get_input_embeddings().weight
        ids = tokenizer.convert_tokens_to_ids([f"<loc_{i}>" for i in range(LOCATIONS)])
        shared[ids] = 0.15 * waves(torch.arange(LOCATIONS) / LOCATIONS, WIDTH)
    return model


def waves(position: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of a position in 0..1, (n,) -> (n, width), wavelengths from 4 to 1/12 in equal ratios."""
    count = width // 2
    frequency = 2 * math.pi * torch.logspace(math.log10(0.25), math.log10(12.0), count)
    angle = position.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def start_positions(model: Florence2ForConditionalGeneration, amplitude: float) -> None:
    """Initialise the tower's learned row and column embeddings as waves of this amplitude.

    They are added to the tower's output, whose scale is far above the library's initial 0.02; at 0.02 they would have
    no effect.
    """
    embed = model.model.multi_modal_projector.image_position_embed
    middle = (torch.arange(GRID) + 0.5) / GRID
    with torch.no_grad():
        for table in (embed.row_embeddings, embed.column_embeddings):
            table.weight.copy_(amplitude * math.sqrt(2) * waves(middle, table.weight.shape[1]))
