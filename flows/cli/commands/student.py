"""agevlm ask, export: programs that load a trained model. They run in a Python process of their own."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

Checkpoint = Annotated[str, typer.Argument(help="id of an artifact of kind checkpoint, or a folder")]


def ask(
    checkpoint: Checkpoint,
    image: Annotated[Path, typer.Argument(help="an image file")],
    question: Annotated[str, typer.Argument(help="a question about the image")],
    map: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="write the model's attention to the image as a picture")
    ] = None,
) -> None:
    """Ask a trained model a question about an image. Runs on this machine, without the stack."""
    from flows.cli.surroundings import run_student_program
    from model.errors import DataError

    if not os.path.isfile(image):  # unlike Path.is_file it never raises, not even for a name that is too long
        raise DataError(f"{image} is not a file; give the path of an image")
    options = [] if map is None else ["--map", str(map)]
    raise typer.Exit(run_student_program("ask", [*options, "--", checkpoint, str(image), question]).returncode)


def export(
    checkpoint: Checkpoint,
    folder: Annotated[Path, typer.Argument(help="the folder to create; an existing one must be empty")],
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        typer.Option(help="number format of the weights (default: that of the checkpoint)"),
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="size of the largest weight file, as 5GB or 500MB")] = "5GB",
) -> None:
    """Write a trained model as a Hugging Face folder with its card.

    It opens without this project: the folder carries the model's code, and a card that gives its training, data,
    masks, scores and licences from the artifact's lineage. Open it with AutoModelForImageTextToText and AutoProcessor,
    with trust_remote_code=True.
    """
    from flows.cli.surroundings import run_student_program

    options = ["--max-shard-size", max_shard_size, *(["--dtype", dtype] if dtype else [])]
    raise typer.Exit(run_student_program("export", [*options, "--", checkpoint, str(folder)]).returncode)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (ask, export):
        app.command(rich_help_panel="Artifacts")(command)
