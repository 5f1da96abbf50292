"""Teachers of a middle size with random weights, for benchmarks: a picture takes them a third of a second or more.

Every answer has the same number of tokens, all of them locations, so that the work of a row does not depend on the
weights.
"""

from pathlib import Path

import torch
from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from model.miniature.florence import BOS, EOS, GRID, PAD, build_processor
from model.miniature.sam import SamSizes, build_sam, save_sam

WIDTH = 384
SAM = SamSizes(
    image_size=512, patch_size=16, encoder_dim=384, encoder_depth=9, encoder_heads=6, global_attention=(2, 5, 8),
    window_size=8, prompt_dim=128, mask_channels=16, decoder_mlp_dim=512,
)  # fmt: skip


def write_mid_florence(folder: Path, tokens: int) -> Path:
    """A Florence-2 of 22 M parameters whose answers have exactly `tokens` tokens."""
    torch.manual_seed(0)
    processor = build_processor()
    tokenizer = processor.tokenizer
    vision = Florence2VisionConfig(
        depths=(1, 1, 2), patch_size=(7, 3, 3), patch_stride=(4, 2, 2), patch_padding=(3, 1, 1),
        patch_prenorm=(False, True, True), embed_dim=(96, 192, WIDTH), num_heads=(3, 6, 12), num_groups=(3, 6, 12),
        window_size=8, drop_path_rate=0.0, projection_dim=WIDTH, max_position_embeddings=GRID,
        max_temporal_embeddings=1,
    )  # fmt: skip
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=WIDTH, encoder_layers=3, decoder_layers=3, encoder_attention_heads=6,
        decoder_attention_heads=6, encoder_ffn_dim=4 * WIDTH, decoder_ffn_dim=4 * WIDTH, max_position_embeddings=192,
        init_std=0.08, bos_token_id=BOS, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=EOS,
        forced_eos_token_id=None,
    )  # fmt: skip
    config = Florence2Config(
        vision_config=vision, text_config=text, image_token_id=tokenizer.image_token_id, bos_token_id=BOS,
        pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=EOS,
    )  # fmt: skip
    model = Florence2ForConditionalGeneration(config)
    locations = tokenizer.convert_tokens_to_ids([f"<loc_{i}>" for i in range(1000)])
    generation = model.generation_config
    generation.suppress_tokens = sorted(set(range(len(tokenizer))) - set(locations))
    generation.min_new_tokens = generation.max_new_tokens = tokens
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_mid_sam(folder: Path) -> Path:
    """A SAM whose encoder takes most of a picture's time, as in the published sizes."""
    torch.manual_seed(0)
    save_sam(build_sam(SAM), SAM, folder)
    return folder
