"""`python -m pipeline.parameter_counts FOLDER`: how many parameters each training stage trains, as JSON.

A program of its own because it imports the model's code, which the command line must not.
"""

import json
import sys
from pathlib import Path


def counts(folder: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Stage -> {'total': part -> parameters, 'trainable': part -> parameters}, from a checkpoint's config alone."""
    import torch

    from model.agevlm.configuration_agevlm import AgeVlmConfig
    from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
    from model.stages import describe_stages

    config = AgeVlmConfig.from_pretrained(folder)
    with torch.device("meta"):  # shapes without memory: the paper's 1.7 billion parameters are counted in a moment
        model = AgeVlmForConditionalGeneration(config)
    return {r.stage.name: {"total": r.total, "trainable": r.trainable} for r in describe_stages(model)}


if __name__ == "__main__":
    print(json.dumps(counts(Path(sys.argv[1]))))
