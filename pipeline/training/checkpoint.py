"""A trained student as a folder that Hugging Face's `from_pretrained` opens."""

from pathlib import Path

from model.agevlm.loading import load_whole
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.agevlm.processing_agevlm import AgeVlmProcessor
from model.errors import ArtifactError


def save_student(model: AgeVlmForConditionalGeneration, processor: AgeVlmProcessor, folder: Path) -> None:
    """Write weights (safetensors), configuration, tokenizer and processor; no pickle anywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def load_student(folder: Path) -> tuple[AgeVlmForConditionalGeneration, AgeVlmProcessor]:
    """Open what `save_student` wrote, in evaluation mode. Raises ArtifactError if it is not such a folder."""
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder} holds no model (no config.json); run the stage that makes it again")
    try:
        model: AgeVlmForConditionalGeneration = load_whole(AgeVlmForConditionalGeneration, folder)
        processor = AgeVlmProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the model in {folder} cannot be opened: {error}") from error
    return model.eval(), processor
