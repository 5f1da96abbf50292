"""`python -m pipeline.student.parameter_counts [CHECKPOINT]`: how many parameters each training stage trains, as JSON.

Without a checkpoint it counts the paper's model. It is a program of its own because it imports torch, which the command
line must not.
"""

import json
import sys
from pathlib import Path

from model.errors import AgevlmError
from pipeline.artifacts.paths import store_root
from pipeline.student.find import check_model_type, checkpoint_folder


def parameter_counts(folder: Path | None) -> dict[str, dict[str, dict[str, int]]]:
    """Stage -> {'total': part -> parameters, 'trainable': part -> parameters}, from a checkpoint's config alone.

    Raises ConfigError or DataError if the folder does not hold an AGE-VLM.
    """
    import torch

    from model.agevlm.configuration_agevlm import AgeVlmConfig
    from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
    from model.stages import describe_stages

    if folder is not None:
        check_model_type(folder)
    config = AgeVlmConfig.paper() if folder is None else AgeVlmConfig.from_pretrained(folder)
    with torch.device("meta"):  # shapes without memory: the paper's 1.7 billion parameters are counted in a moment
        model = AgeVlmForConditionalGeneration(config)
    return {r.stage.name: {"total": r.total, "trainable": r.trainable} for r in describe_stages(model)}


if __name__ == "__main__":
    try:
        folder = checkpoint_folder(sys.argv[1], store_root())[0] if len(sys.argv) > 1 else None
        print(json.dumps(parameter_counts(folder)))
    except AgevlmError as error:
        raise SystemExit(str(error)) from None
