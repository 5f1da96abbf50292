"""An AGE-VLM as a folder that opens without this project: weights, code, processor and model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.processing_agevlm import AgeVlmProcessor
from model.history import History
from model.model_card import model_card
from model.stage_table import STAGES
from model.stages import describe_stage

LICENCE = Path(__file__).resolve().parent.parent / "LICENSE"


def write_export(
    model: AgeVlmForConditionalGeneration,
    processor: AgeVlmProcessor,
    folder: Path,
    history: History | None = None,
    system_prompt: str | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Save model, processor, their code, its licence and the card: a folder that opens without this project.

    Args:
        history: how the weights came to be, if that is known; its lineage goes whole into `lineage.json`.
        system_prompt: the system turn of the conversations that it was trained on, if they had one.
        max_shard_size: as transformers takes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(LICENCE, folder / "LICENSE-CODE")
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)
    if history is not None:
        text = json.dumps(history.lineage, indent=2, sort_keys=True) + "\n"
        (folder / "lineage.json").write_text(text, encoding="utf-8")
    parameters = describe_stage(model, next(iter(STAGES.values()))).total
    dtype = str(model.dtype).removeprefix("torch.")
    card = model_card(model.config, processor.image_processor.fit, parameters, dtype, history, system_prompt)
    (folder / "README.md").write_text(card, encoding="utf-8")
    for weights in folder.glob("*.safetensors"):  # which safetensors makes for the owner's eyes only
        shutil.copymode(folder / "README.md", weights)
