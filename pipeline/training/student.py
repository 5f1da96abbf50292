"""The student: built from two backbones (stage 1) or loaded from a parent stage; saved as a Hugging Face folder."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from model.agevlm.backbones import from_backbones
from model.agevlm.loading import load_whole
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.processing_agevlm import AgeVlmProcessor
from model.errors import ArtifactError, ConfigError
from pipeline.compute.hub import local_folder
from pipeline.training.config import StudentConfig

CA_DEFAULTS = ("cross_attention", "cross_attention_layers", "init", "guidance_normalisation", "guidance_reduction")


def join_backbones(
    student: StudentConfig, text: str, vision: str, seed: int
) -> tuple[AgeVlmForConditionalGeneration, AgeVlmProcessor]:
    """A fresh student in fp32: pretrained language model and encoder, new adapter and cross-attention from `seed`.

    Args:
        text, vision: local folders, or 'hub:org/name@commit'.

    Raises ConfigError with the reason if the backbones cannot be joined.
    """
    text_folder, vision_folder = local_folder("text", text), local_folder("vision", vision)
    options: dict[str, Any] = student.model_dump(include=set(CA_DEFAULTS))
    options["cross_attention_layers"] = list(student.cross_attention_layers)
    try:
        model = from_backbones(text_folder, vision_folder, seed=seed, **options)
        tokenizer = AutoTokenizer.from_pretrained(text_folder)
        processor = AgeVlmProcessor.from_backbones(tokenizer, model.config.vision_config, student.letterbox)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the student cannot be built from {text} and {vision}: {error}") from error
    return model, processor


def build_student(
    student: StudentConfig | None, text: str, vision: str, seed: int, parent: Path | None
) -> tuple[AgeVlmForConditionalGeneration, AgeVlmProcessor]:
    """The student that a stage starts from. Raises ConfigError if it has neither a configuration nor a parent."""
    if parent is not None:
        return load_student(parent)
    if student is None:
        raise ConfigError("a stage without a parent needs 'student' in its parameters; stage 1 has it")
    return join_backbones(student, text, vision, seed)


def save_student(
    model: AgeVlmForConditionalGeneration,
    processor: AgeVlmProcessor,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write weights (safetensors), configuration, tokenizer and processor. Nothing is pickled.

    weights: whole tensors by name, where the model has only a part of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)


def load_student(folder: Path) -> tuple[AgeVlmForConditionalGeneration, AgeVlmProcessor]:
    """Load a folder that `save_student` wrote, in evaluation mode. Raises ArtifactError if it cannot be loaded."""
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder} holds no model (no config.json); run the stage that makes it again")
    try:
        model: AgeVlmForConditionalGeneration = load_whole(AgeVlmForConditionalGeneration, folder)
        processor = AgeVlmProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the model in {folder} cannot be opened: {error}") from error
    return model.eval(), processor
