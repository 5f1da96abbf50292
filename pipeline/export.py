"""`python -m pipeline.export CHECKPOINT FOLDER`: a checkpoint as a Hugging Face folder that opens without this project.

The folder carries the model's code and a card written from the checkpoint's lineage. It is there whole or not at all.
"""

import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from model.errors import AgevlmError, ArtifactError, ConfigError, DataError
from pipeline.artifacts.store import Artifact, ArtifactStore, sha256_of
from pipeline.ask import printable
from pipeline.checkpoints import CONFIG, checkpoint_folder, default_store

if TYPE_CHECKING:
    from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration

Dtype = Literal["bfloat16", "float16", "float32"]
MODEL_TYPE = "agevlm"
SHARD_SIZE = re.compile(r"[1-9]\d*(KB|MB|GB)")


def export(checkpoint: str, target: Path, store_root: str, dtype: Dtype | None, max_shard_size: str) -> list[str]:
    """Write the folder `target`; returns what is to be said of it, line by line.

    Args:
        checkpoint: the beginning of a checkpoint artifact's id, or a folder, of whose training the card says nothing.
        dtype: number format of the exported weights; None for that of the checkpoint.
        max_shard_size: largest weight file, as '5GB', '500MB' or '900KB'.

    Raises ConfigError, DataError or ArtifactError; then there is no new folder.
    """
    if not SHARD_SIZE.fullmatch(max_shard_size):
        raise ConfigError(f"--max-shard-size {max_shard_size}: write a whole number and KB, MB or GB, as in 5GB")
    refuse_existing(target)
    source, system_prompt = checkpoint_folder(checkpoint, store_root)
    artifact = None
    if not os.path.isdir(os.path.expanduser(checkpoint)):
        artifact = ArtifactStore(store_root).find(checkpoint)
        verify(artifact, source.parent)
    check_kind(source)

    import transformers

    from model.export import write_export
    from pipeline.history import history_of
    from pipeline.training.checkpoint import load_student

    transformers.logging.disable_progress_bar()
    model, processor = load_student(source)
    stored = str(model.dtype).removeprefix("torch.")
    history = None if artifact is None else history_of(artifact.store, artifact, stored)
    convert(model, dtype or stored)
    with whole_folder(target) as folder:
        write_export(model, processor, folder, history, system_prompt, max_shard_size)
    sizes = [file.stat().st_size for file in target.rglob("*") if file.is_file()]
    written = str(model.dtype).removeprefix("torch.")
    lines = [f"{target}: {len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB, weights in {written}"]
    if history is None:
        return [*lines, "its card says nothing of the training, which only an artifact of the store knows"]
    lines.append(f"its card tells the history of {history.artifact}")
    lines += [f"with the scores of {evaluation.artifact}" for evaluation in history.evaluations]
    return [*lines, *(f"left out: {line}" for line in history.trouble)]


def refuse_existing(target: Path) -> None:
    """Raise ConfigError unless `target` can be a new folder: it is missing or an empty folder."""
    try:
        if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
            return
    except OSError as error:
        raise ConfigError(f"'{target}' cannot be looked at ({error.strerror}); give another folder") from error
    raise ConfigError(f"'{target}' exists and is not an empty folder; give a new name, or move it away first")


def verify(artifact: Artifact, data: Path) -> None:
    """Hash the checkpoint's files in the local folder `data`. Raises ArtifactError naming one that is not as it was."""
    for entry in artifact.manifest.files:
        try:
            with open(data / entry.path, "rb") as stream:
                found, size = sha256_of(stream)
        except OSError as error:
            raise ArtifactError(f"{artifact.ref}: {data / entry.path} cannot be read ({error.strerror})") from error
        if (found, size) != (entry.sha256, entry.size):
            raise ArtifactError(
                f"{artifact.ref}: {data / entry.path} is not what was published; see 'agevlm verify {artifact.ref.id}'"
            )


def check_kind(source: Path) -> None:
    """Raise ConfigError unless the folder's configuration is that of an AGE-VLM."""
    try:
        kind = json.loads((source / CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{source / CONFIG} is damaged: {error}") from error
    if kind != MODEL_TYPE:
        raise ConfigError(f"{source} holds a '{kind}', not an AGE-VLM; give the folder or id of a student's checkpoint")


def convert(model: "AgeVlmForConditionalGeneration", dtype: str) -> None:
    """Change the weights' number format. Raises DataError if a weight is no finite number, before or after it."""
    import torch

    from model.agevlm.loading import cast_parameters

    def broken() -> str | None:
        return next((name for name, p in model.named_parameters() if not torch.isfinite(p).all()), None)

    name = broken()
    if name is not None:
        raise DataError(f"weight {name} holds values that are no finite numbers: the training failed; look at its loss")
    cast_parameters(model, getattr(torch, dtype))
    name = broken()
    if name is not None:
        raise DataError(f"--dtype {dtype}: weight {name} holds values that are too large for it; choose bfloat16")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that gets its name when the block ends without an error, and is gone otherwise.

    Raises ConfigError if the file system does not let us, or if somebody else filled `target` in the meantime.
    """
    partial = target.absolute().parent / f".{target.name}.{uuid.uuid4().hex}.partial"
    try:
        partial.mkdir(parents=True)
        yield partial
        os.rename(partial, target)  # over an empty folder, never over a file or a full folder
    except OSError as error:
        raise ConfigError(f"'{target}' cannot be written ({error.strerror or error}); give another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main(
    checkpoint: Annotated[str, typer.Argument(help="the beginning of a checkpoint artifact's id, or a folder")],
    folder: Annotated[Path, typer.Argument(help="the folder to make; an existing one must be empty")],
    dtype: Annotated[Dtype | None, typer.Option(help="number format of the weights (default: as they are)")] = None,
    max_shard_size: Annotated[str, typer.Option(help="largest weight file, as 5GB or 500MB")] = "5GB",
    store: Annotated[str | None, typer.Option(help="artifact store: a path or URL (default: $AGEVLM_STORE)")] = None,
) -> None:
    """Write a checkpoint as a Hugging Face folder with its code and a model card."""
    try:
        print("\n".join(map(printable, export(checkpoint, folder, store or default_store(), dtype, max_shard_size))))
    except AgevlmError as error:
        print(printable(f"{type(error).__name__}: {error}"), file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
