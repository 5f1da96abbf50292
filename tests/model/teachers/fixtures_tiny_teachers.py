"""Teachers with random weights, written to disk in the layout of the published ones."""

from pathlib import Path

import torch

from model.miniature.florence import build_model, build_processor
from model.miniature.sam import SamSizes, build_sam, save_sam

LOCATIONS = 12  # tokens of a talkative teacher's answer: one polygon of six points


def write_florence(folder: Path, talkative: bool, seed: int = 0) -> Path:
    """A random Florence-2. A talkative one can only say locations, so every answer is a polygon and never ends.

    It says none of them twice, and those that it knows are far apart, so its polygons have areas. What it may say lies
    in generation_config.json, as it would in a published checkpoint.
    """
    torch.manual_seed(seed)
    processor = build_processor()
    model = build_model(processor)
    if talkative:
        words = set(range(len(processor.tokenizer))) - set(
            processor.tokenizer.convert_tokens_to_ids([f"<loc_{i}>" for i in range(20, 1000, 40)])
        )
        model.generation_config.no_repeat_ngram_size = 1
        model.generation_config.suppress_tokens = sorted(words)
        with torch.no_grad():  # queries and pictures must make a difference that greedy search can see
            for parameter in model.model.language_model.decoder.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(2.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_sam(folder: Path, seed: int = 0) -> Path:
    """A random SAM in a folder with config.json."""
    torch.manual_seed(seed)
    save_sam(build_sam(SamSizes()), SamSizes(), folder)
    return folder
