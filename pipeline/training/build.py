"""The student that a stage starts from: joined from its two backbones (stage 1) or the parent stage's."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.processing_agevlm import AgeVlmProcessor
from model.errors import ConfigError
from pipeline.training.checkpoint import load_student
from pipeline.training.config import StudentConfig

# How a recipe's letterbox is called by the image processor.
FITS = {"mean": "letterbox", "zero": "pad", "squash": "squash"}
CA_DEFAULTS = ("cross_attention", "cross_attention_layers", "init", "guidance_normalisation", "guidance_reduction")


def join_backbones(
    student: StudentConfig, text: str, vision: str, seed: int
) -> tuple[AgeVlmForConditionalGeneration, AgeVlmProcessor]:
    """A fresh student in fp32: pretrained language model and encoder, new adapter and cross-attention from `seed`.

    Args:
        text, vision: local folders, or 'hub:org/name@commit'.

    Raises ConfigError if a backbone does not fit, with the reason.
    """
    text_folder, vision_folder = local_folder(text), local_folder(vision)
    options: dict[str, Any] = student.model_dump(include=set(CA_DEFAULTS))
    options["cross_attention_layers"] = list(student.cross_attention_layers)
    try:
        model = AgeVlmForConditionalGeneration.from_backbones(text_folder, vision_folder, seed=seed, **options)
        tokenizer = AutoTokenizer.from_pretrained(text_folder)
        processor = AgeVlmProcessor.from_backbones(tokenizer, model.config.vision_config, FITS[student.letterbox])
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


def local_folder(location: str) -> Path:
    """A local path as it is; 'hub:org/name@commit' fetched to Hugging Face's own cache."""
    if not location.startswith("hub:"):
        return Path(location)
    from huggingface_hub import snapshot_download

    name, commit = location.removeprefix("hub:").split("@")
    return Path(snapshot_download(name, revision=commit))
