"""Find a trained student on disk or in the artifact store: the argument that ask, export and parameter_counts take."""

import os
from pathlib import Path

from model.errors import ConfigError, DataError
from pipeline.artifacts.paths import scratch_folder
from pipeline.artifacts.spec import parsed
from pipeline.artifacts.store import ArtifactStore
from pipeline.schemas import MODEL, STAGE_FILE

CONFIG = "config.json"
MODEL_TYPE = "agevlm"


def checkpoint_folder(checkpoint: str, store_root: str) -> tuple[Path, str | None]:
    """The Hugging Face folder of a checkpoint, and the system turn that it was trained with, if that is known.

    `checkpoint` is such a folder, the folder of a checkpoint's data, or the beginning of an artifact's id.
    Raises ConfigError, DataError or ArtifactError.
    """
    folder = Path(os.path.expanduser(checkpoint))
    if os.path.isdir(folder):  # unlike Path.is_dir, never an error, whatever the name
        for model in (folder, folder / MODEL):
            if (model / CONFIG).is_file():
                return model, _system_prompt(model.parent if model.name == MODEL else model)
        raise ConfigError(f"checkpoint '{checkpoint}': the folder holds no {CONFIG}; give the one that does, or an id")
    if "/" in checkpoint and not checkpoint.startswith("checkpoint/"):
        raise ConfigError(f"checkpoint '{checkpoint}': no such folder; give a Hugging Face folder or an artifact's id")
    artifact = ArtifactStore(store_root).find(checkpoint, "checkpoint")
    if artifact.ref.kind != "checkpoint":
        raise ConfigError(f"'{checkpoint}' is {artifact.ref}, not a checkpoint; 'agevlm artifacts' lists checkpoints")
    cache = scratch_folder() / "cache"
    artifact.local(cache, f"{MODEL}/")  # not the training state, which is twice as large
    data = artifact.local(cache, STAGE_FILE)
    return data / MODEL, _system_prompt(data)


def check_model_type(folder: Path) -> None:
    """Raise ConfigError unless the folder's config.json is that of an AGE-VLM, DataError if it is damaged."""
    try:
        kind = parsed((folder / CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{folder / CONFIG} is damaged: {error}") from error
    if kind != MODEL_TYPE:
        raise ConfigError(f"{folder} holds a '{kind}', not an AGE-VLM; give the folder or id of a student's checkpoint")


def _system_prompt(data: Path) -> str | None:
    """The system turn of the training conversations, from the stage's own record."""
    stage = data / STAGE_FILE
    if not stage.is_file():
        return None
    try:
        value = parsed(stage.read_text(encoding="utf-8")).get("system_prompt")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{stage} is damaged: {error}; make the checkpoint again") from error
    return None if value is None else str(value)
