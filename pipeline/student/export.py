"""`python -m pipeline.student.export CHECKPOINT FOLDER`: write a Hugging Face folder that opens without this project.

The folder holds the weights, the model's code and its licence, and a card that is written from the checkpoint's
lineage. It is written whole or not at all.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from model.errors import AgevlmError, ArtifactError, ConfigError, DataError
from model.stage_table import STAGES
from pipeline.artifacts.atomic import new_folder
from pipeline.artifacts.export_target import cannot_write, refuse_target
from pipeline.artifacts.paths import PROJECT, store_root
from pipeline.artifacts.store import Artifact, ArtifactStore, sha256_of
from pipeline.student.ask import printable
from pipeline.student.card import write_card
from pipeline.student.card_facts import CardFacts, read_card_facts
from pipeline.student.find import check_model_type, checkpoint_folder

if TYPE_CHECKING:
    from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
    from model.agevlm.processing_agevlm import AgeVlmProcessor

Dtype = Literal["bfloat16", "float16", "float32"]
SHARD_SIZE = re.compile(r"[1-9]\d*(KB|MB|GB)")


def export(checkpoint: str, target: Path, root: str, dtype: Dtype | None, max_shard_size: str) -> list[str]:
    """Write the folder `target`; returns the lines to print.

    Args:
        checkpoint: the beginning of a checkpoint artifact's id, or a folder; the card of a folder has no lineage.
        root: of the artifact store, a path or URL.
        dtype: number format of the exported weights; None for that of the checkpoint.
        max_shard_size: largest weight file, as '5GB', '500MB' or '900KB'.

    Raises ConfigError, DataError or ArtifactError; then there is no new folder.
    """
    if not SHARD_SIZE.fullmatch(max_shard_size):
        raise ConfigError(f"--max-shard-size {max_shard_size}: write a whole number and KB, MB or GB, as in 5GB")
    refuse_target(target, root)
    source, system_prompt = checkpoint_folder(checkpoint, root)
    artifact = None
    if not os.path.isdir(os.path.expanduser(checkpoint)):
        artifact = ArtifactStore(root).find(checkpoint, "checkpoint")
        verify(artifact, source.parent)
    check_model_type(source)

    import transformers

    from pipeline.training.student import load_student

    transformers.logging.disable_progress_bar()
    model, processor = load_student(source)
    stored = dtype_name(model)
    facts = None if artifact is None else read_card_facts(artifact)
    convert(model, dtype or stored)
    try:
        with new_folder(target.absolute()) as folder:
            write_folder(model, processor, folder, facts, stored, system_prompt, max_shard_size)
            written = folder.stat()
    except OSError as error:
        raise cannot_write(target, error) from error
    # new_folder keeps a folder that another program filled meanwhile; that one is not this export.
    if not os.path.samestat(written, target.stat()):
        raise ConfigError(f"'{target}' was filled by another program meanwhile and was left alone; give another folder")
    sizes = [file.stat().st_size for file in target.rglob("*") if file.is_file()]
    lines = [f"{target}: {len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB, weights in {dtype_name(model)}"]
    if facts is None:
        return [*lines, "its card says nothing of the training, which only an artifact of the store knows"]
    lines.append(f"its card tells the lineage of {facts.stages[-1].ref.path}")
    lines += [f"with the scores of {evaluation.ref.path}" for evaluation in facts.evaluations]
    return [*lines, *(f"left out: {line}" for line in facts.trouble)]


def verify(artifact: Artifact, data: Path) -> None:
    """Hash the checkpoint's files in the local folder `data`. Raises ArtifactError naming a file that changed."""
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


def dtype_name(model: "AgeVlmForConditionalGeneration") -> str:
    """'float32', 'bfloat16' or 'float16'."""
    return str(model.dtype).removeprefix("torch.")


def convert(model: "AgeVlmForConditionalGeneration", dtype: str) -> None:
    """Change the weights' number format. Raises DataError if a weight is not finite, before or after it."""
    import torch

    from model.agevlm.loading import cast_parameters

    def broken() -> str | None:
        return next((name for name, p in model.named_parameters() if not torch.isfinite(p).all()), None)

    name = broken()
    if name is not None:
        raise DataError(f"weight {name} holds values that are not finite: the training failed; look at its loss")
    cast_parameters(model, getattr(torch, dtype))
    name = broken()
    if name is not None:
        raise DataError(f"--dtype {dtype}: weight {name} holds values that are too large for it; choose bfloat16")


def write_folder(
    model: "AgeVlmForConditionalGeneration",
    processor: "AgeVlmProcessor",
    folder: Path,
    facts: CardFacts | None,
    evaluated_in: str,
    system_prompt: str | None,
    max_shard_size: str,
) -> None:
    """Fill an existing folder with model, processor, their code and its licence, the card and `lineage.json`.

    Args:
        facts: the checkpoint's lineage, if that is known.
        evaluated_in: number format of the checkpoint, which was evaluated.
        system_prompt: the system turn of the training conversations, if they had one.
        max_shard_size: as transformers takes it.
    """
    from model.stages import describe_stage

    shutil.copyfile(PROJECT / "LICENSE", folder / "LICENSE-CODE")
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)
    if facts is not None:
        text = json.dumps(facts.lineage, indent=2, sort_keys=True) + "\n"
        (folder / "lineage.json").write_text(text, encoding="utf-8")
    card = write_card(
        model.config,
        processor.image_processor.letterbox,
        describe_stage(model, STAGES["stage1"]).total,
        dtype_name(model),
        facts,
        evaluated_in,
        system_prompt,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    for weights in folder.glob("*.safetensors"):  # safetensors makes files that only their owner may read
        shutil.copymode(folder / "README.md", weights)


def main(
    checkpoint: Annotated[str, typer.Argument(help="the beginning of a checkpoint artifact's id, or a folder")],
    folder: Annotated[Path, typer.Argument(help="the folder to make; an existing one must be empty")],
    dtype: Annotated[Dtype | None, typer.Option(help="number format of the weights (default: as they are)")] = None,
    max_shard_size: Annotated[str, typer.Option(help="largest weight file, as 5GB or 500MB")] = "5GB",
    store: Annotated[str | None, typer.Option(help="artifact store: a path or URL (default: $AGEVLM_STORE)")] = None,
) -> None:
    """Write a checkpoint as a Hugging Face folder with its code and a model card."""
    try:
        print("\n".join(map(printable, export(checkpoint, folder, store or store_root(), dtype, max_shard_size))))
    except AgevlmError as error:
        print(printable(f"{type(error).__name__}: {error}"), file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
