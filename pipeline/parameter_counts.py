"""`python -m pipeline.parameter_counts [CHECKPOINT]`: how many parameters each training stage trains, as JSON.

Without a checkpoint: of the paper's model. A program of its own because it imports the model's code, which the command
line must not.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import AgevlmError, ConfigError
from pipeline.checkpoints import CONFIG, checkpoint_folder, default_store

if TYPE_CHECKING:
    from model.agevlm.configuration_agevlm import AgeVlmConfig


def counts(folder: Path | None) -> dict[str, dict[str, dict[str, int]]]:
    """Stage -> {'total': part -> parameters, 'trainable': part -> parameters}, from a checkpoint's config alone.

    Raises ConfigError if the folder holds another model than AGE-VLM.
    """
    import torch

    from model.agevlm.configuration_agevlm import AgeVlmConfig
    from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
    from model.stages import describe_stages

    config = AgeVlmConfig.paper() if folder is None else _config(folder)
    with torch.device("meta"):  # shapes without memory: the paper's 1.7 billion parameters are counted in a moment
        model = AgeVlmForConditionalGeneration(config)
    return {r.stage.name: {"total": r.total, "trainable": r.trainable} for r in describe_stages(model)}


def _config(folder: Path) -> "AgeVlmConfig":
    from model.agevlm.configuration_agevlm import AgeVlmConfig

    kind = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("model_type")
    if kind != AgeVlmConfig.model_type:
        raise ConfigError(f"{folder} holds a '{kind}', not an AGE-VLM; give the folder or id of a student's checkpoint")
    config: AgeVlmConfig = AgeVlmConfig.from_pretrained(folder)
    return config


if __name__ == "__main__":
    try:
        folder = checkpoint_folder(sys.argv[1], default_store())[0] if len(sys.argv) > 1 else None
        print(json.dumps(counts(folder)))
    except AgevlmError as error:
        raise SystemExit(str(error)) from None
