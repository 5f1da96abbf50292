"""agevlm ask."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer


def ask(
    checkpoint: Annotated[str, typer.Argument(help="id of an artifact of kind checkpoint, or a folder")],
    image: Annotated[Path, typer.Argument(help="an image file")],
    question: Annotated[str, typer.Argument(help="what to ask about it")],
    map: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="write where the model looked, as a picture")
    ] = None,
) -> None:
    """Ask a trained model a question about an image. Runs in this machine's own Python, without the stack."""
    from flows.environment import process_environment
    from flows.state import store_in_use
    from model.errors import DataError

    if not os.path.isfile(image):  # unlike Path.is_file, never an error, whatever the name
        raise DataError(f"{image} is not a file; give the path of an image")
    options = [] if map is None else ["--map", str(map)]
    command = [sys.executable, "-P", "-m", "pipeline.ask", *options, "--", checkpoint, str(image), question]
    surroundings = {"AGEVLM_STORE": store_in_use()}
    raise typer.Exit(subprocess.run(command, env=process_environment(surroundings), check=False).returncode)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Artifacts")(ask)
