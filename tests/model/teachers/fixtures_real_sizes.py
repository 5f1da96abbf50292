"""Florence-2-base and SAM ViT-B with random weights, saved in the layouts of the published ones."""

from pathlib import Path

import torch
from segment_anything import sam_model_registry
from transformers import (
    BartConfig,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GenerationConfig,
)
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from model.miniature.florence import build_processor, build_tokenizer

PIXELS, IMAGE_TOKENS = 768, 577
VOCABULARY = 51289


def write_florence_base(folder: Path) -> Path:
    """As florence-community/Florence-2-base: 0.23 billion parameters, with a small tokenizer of our own.

    It can only say locations, and none twice: random weights would repeat one for ever, and a point is no polygon.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    vision = Florence2VisionConfig(
        embed_dim=(128, 256, 512, 1024), depths=(1, 1, 9, 1), num_heads=(4, 8, 16, 32), num_groups=(4, 8, 16, 32),
        projection_dim=768,
    )  # fmt: skip
    text = BartConfig(
        vocab_size=VOCABULARY, d_model=768, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=3072,
        decoder_ffn_dim=3072, encoder_attention_heads=12, decoder_attention_heads=12, max_position_embeddings=1024,
        forced_eos_token_id=None,
    )  # fmt: skip
    config = Florence2Config(
        vision_config=vision, text_config=text, image_token_id=tokenizer.image_token_id, decoder_start_token_id=2
    )
    model = Florence2ForConditionalGeneration(config)
    places = set(tokenizer.convert_tokens_to_ids([f"<loc_{i}>" for i in range(1000)]))
    model.generation_config = GenerationConfig(
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, no_repeat_ngram_size=1,
        suppress_tokens=[i for i in range(VOCABULARY) if i not in places],
    )  # fmt: skip
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"height": PIXELS, "width": PIXELS}, do_center_crop=False, resample=3)
    images.image_seq_length = IMAGE_TOKENS
    settings = build_processor().post_processor_config
    Florence2Processor(images, tokenizer, post_processor_config=settings).save_pretrained(folder)
    return folder


def write_sam_vit_b(path: Path) -> Path:
    """As sam_vit_b_01ec64.pth: the bare state dict, saved with torch.save."""
    torch.manual_seed(0)
    torch.save(sam_model_registry["vit_b"]().state_dict(), path)
    return path
