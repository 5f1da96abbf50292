"""The folder of the miniature world's shipped weights.

Below `weights_dir()`:
- florence2: a folder for `Florence2ForConditionalGeneration.from_pretrained` and `AutoProcessor.from_pretrained`;
- sam: config.json (`model.miniature.sam.SamSizes`) and model.safetensors, for `model.miniature.sam.load_sam`;
- llama: a folder for `LlamaForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`, with a chat template;
- convnext: config.json (architecture, timm's arguments, pixel statistics) and model.safetensors without a head.
"""

from __future__ import annotations

from pathlib import Path

# No import of torch: the command line uses this path too.


def weights_dir() -> Path:
    """The folder of the shipped weights."""
    return Path(__file__).resolve().parent / "weights"
