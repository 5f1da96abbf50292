"""Finding a trained student: what programs that take a checkpoint from the command line do with that argument."""

import json
import os
from pathlib import Path

from model.errors import ConfigError, DataError
from pipeline.artifacts.store import ArtifactStore
from pipeline.training.layout import MODEL, STAGE_FILE

CONFIG = "config.json"
PROJECT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """`$AGEVLM_HOME`, or `.agevlm` in the project's own folder."""
    return Path(os.environ.get("AGEVLM_HOME") or PROJECT / ".agevlm").expanduser()


def default_store() -> str:
    """`$AGEVLM_STORE`, or `artifacts` in `$AGEVLM_HOME`, or `.agevlm/artifacts` in the project's own folder."""
    return os.environ.get("AGEVLM_STORE") or str(home() / "artifacts")


def checkpoint_folder(checkpoint: str, store_root: str) -> tuple[Path, str | None]:
    """The Hugging Face folder of a checkpoint, and the system turn that it was trained with, if that is known.

    `checkpoint` is such a folder, the folder of a checkpoint's data, or the beginning of an artifact's id.
    Raises ConfigError or ArtifactError.
    """
    folder = Path(os.path.expanduser(checkpoint))
    if os.path.isdir(folder):  # unlike Path.is_dir, never an error, whatever the name
        for model in (folder, folder / MODEL):
            if (model / CONFIG).is_file():
                return model, _system_prompt(model.parent if model.name == MODEL else model)
        raise ConfigError(f"checkpoint '{checkpoint}': the folder holds no {CONFIG}; give the one that does, or an id")
    if "/" in checkpoint and not checkpoint.startswith("checkpoint/"):
        raise ConfigError(f"checkpoint '{checkpoint}': no such folder; give a Hugging Face folder or an artifact's id")
    store = ArtifactStore(store_root)
    artifact = store.find(checkpoint)
    if artifact.ref.kind != "checkpoint":
        raise ConfigError(f"'{checkpoint}' is {artifact.ref}, not a checkpoint; 'agevlm artifacts' lists checkpoints")
    data = artifact.local(home() / "scratch" / "cache" if "://" in store_root else None)
    return data / MODEL, _system_prompt(data)


def _system_prompt(data: Path) -> str | None:
    """The system turn of the conversations that the student was trained on, as its stage wrote it down."""
    stage = data / STAGE_FILE
    if not stage.is_file():
        return None
    try:
        value = json.loads(stage.read_text(encoding="utf-8")).get("system_prompt")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{stage} is damaged: {error}; make the checkpoint again") from error
    return None if value is None else str(value)
