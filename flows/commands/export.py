"""agevlm export."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    checkpoint: Annotated[str, typer.Argument(help="id of an artifact of kind checkpoint, or a folder")],
    folder: Annotated[Path, typer.Argument(help="the folder to make; an existing one must be empty")],
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        typer.Option(help="number format of the weights (default: as they are)"),
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="largest weight file, as 5GB or 500MB")] = "5GB",
) -> None:
    """Write a trained model as a Hugging Face folder with its card.

    It opens without this project.

    The folder carries the model's code, and a card that tells its training, data, masks, scores and licences from the
    artifact's lineage. Open it with AutoModelForImageTextToText and AutoProcessor, with trust_remote_code=True.
    """
    from flows.environment import process_environment
    from flows.state import store_in_use

    command = [sys.executable, "-P", "-m", "pipeline.export"]
    command += ["--max-shard-size", max_shard_size, *(["--dtype", dtype] if dtype else [])]
    command += ["--", checkpoint, str(folder)]
    surroundings = {"AGEVLM_STORE": store_in_use()}
    raise typer.Exit(subprocess.run(command, env=process_environment(surroundings), check=False).returncode)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Artifacts")(export)
