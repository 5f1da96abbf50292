"""agevlm ask, export, check-alignment: programs with a student or its data. They run in another Python process."""

import os
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="id or name of an artifact of kind checkpoint, or a folder")
]


def ask(
    checkpoint: Checkpoint,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="an image file")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="a question about the image")],
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
    id: Annotated[str, typer.Argument(metavar="ID", help="id or name of an artifact, or the folder of a checkpoint")],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="the folder to create; an existing one must be empty")
    ],
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        typer.Option(help="number format of a checkpoint's weights (default: as they are)"),
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option(help="size of a checkpoint's largest weight file, as 5GB or 500MB")
    ] = "5GB",
) -> None:
    """Write an artifact as a folder for others.

    With a card from its lineage. A checkpoint becomes a Hugging Face folder that opens without this project: it carries
    the model's code. Open it with AutoModelForImageTextToText and AutoProcessor, with trust_remote_code=True. Every
    other kind except report becomes a data set: Parquet files that datasets.load_dataset(FOLDER) opens, with manifest
    and lineage.
    """
    from flows.cli.surroundings import open_store, run_student_program
    from model.errors import ConfigError

    ref = None if os.path.isdir(os.path.expanduser(id)) else open_store().find_ref(id)
    if ref is None or ref.kind == "checkpoint":
        options = ["--max-shard-size", max_shard_size, *(["--dtype", dtype] if dtype else [])]
        checkpoint = id if ref is None else ref.path
        raise typer.Exit(run_student_program("export", [*options, "--", checkpoint, str(folder)]).returncode)
    if dtype is not None:
        raise ConfigError(f"--dtype is for checkpoints, and {ref} is none")
    from pipeline.dataset.export import export_dataset

    for line in export_dataset(open_store().require(ref), folder):
        typer.echo(line)


def check_alignment(
    checkpoint_or_recipe: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT_OR_RECIPE",
            help="id or name of an artifact of kind checkpoint, or a recipe's name or file",
        ),
    ],
    rows: Annotated[int, typer.Option(min=1, help="guided rows to look at, in each stage")] = 24,
    draw: Annotated[int, typer.Option(min=0, help="rows to print: wrong ones first")] = 3,
    json: Annotated[bool, typer.Option("--json", help="print JSON, and nothing else")] = False,
    save: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="write all rows as one picture: square, cells, mask, words")
    ] = None,
) -> None:
    """Check that guidance gets the right words and cells.

    Exit code 1 if not. Some rows with a mask go through the reader and the collator of a guided stage. What they show
    is compared with the text that was sent to Florence-2, with the mask in the full image, and with the image file; and
    with the true masks where the data has them. Each such stage does the same before its first step.

    For a recipe: its guided stages whose pack and masks are made. For a checkpoint: the stage that made it.
    """
    from flows.cli.surroundings import run_student_program
    from pipeline.plan.recipe import available

    options = ["--rows", str(rows), "--draw", str(draw), *(["--json"] if json else [])]
    options += ["--save", str(save)] if save else []
    is_recipe = checkpoint_or_recipe in available() or checkpoint_or_recipe.endswith((".yaml", ".yml"))
    if is_recipe:
        for stage in _guided_stages(checkpoint_or_recipe):
            options += ["--stage", dumps(stage)]
    else:
        options += ["--", checkpoint_or_recipe]
    raise typer.Exit(run_student_program("check_alignment", options).returncode)


def _guided_stages(recipe: str) -> list[dict[str, Any]]:
    """The guided stages of a recipe whose pack and masks are made. Raises ConfigError if there are none."""
    from flows.cli.surroundings import offline_settings
    from flows.run.parameters import resolve
    from flows.run.preparation import planner
    from model.errors import ConfigError
    from model.stage_table import STAGE_STEPS
    from pipeline.artifacts.store import ArtifactStore
    from pipeline.plan.locations import locations_of

    settings, chosen = offline_settings(), resolve(recipe)
    store = ArtifactStore(settings.store)
    steps = planner(chosen, settings)(store.attempt)
    guided = [step for step in steps if step.step.name in STAGE_STEPS and "masks" in step.inputs]
    if not guided:
        names = ", ".join(chosen.variants)
        raise ConfigError(f"recipe '{recipe}' has no guided stage (variants: {names}); age_vlm and age_vlm_lm have one")
    places, found, missing = locations_of(chosen, settings.store, str(settings.scratch)), [], []
    for step in guided:
        lacks = [step.inputs[name] for name in ("pack", "masks") if store.get(steps[step.inputs[name]].ref) is None]
        if lacks:
            missing.append(f"{step.key} needs {' and '.join(lacks)}")
            continue
        student = steps[step.inputs["parent"]].ref
        found.append(
            {
                "row": step.spec.params["row"],
                "config": step.spec.params["config"],
                "seed": step.spec.params["seed"],
                **{name: steps[step.inputs[name]].ref.model_dump() for name in ("pack", "masks")},
                "student": student.model_dump() if store.get(student) is not None else None,
                "letterbox": chosen.student.letterbox,
                "text": places.weights_of("text"),
                "vision": places.weights_of("vision"),
            }
        )
    if not found:
        raise ConfigError(
            f"recipe '{recipe}' has nothing to check yet: {'; '.join(missing)}, which are not made; run it first, or "
            "'agevlm/mask-generation' and its packs"
        )
    for text in missing:
        typer.echo(f"not checked: {text}, which is not made yet", err=True)
    return found


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Artifacts")(export)
    for command in (ask, check_alignment):
        app.command(rich_help_panel="Models")(command)
