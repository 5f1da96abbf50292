"""A calibration: speeds measured on a machine for a recipe's student, kept as JSON in the scratch folder."""

import json
import platform
from pathlib import Path

from pydantic import Field

from model.errors import ConfigError
from pipeline.artifacts.atomic import write_text
from pipeline.artifacts.spec import digest, short
from pipeline.artifacts.versions import library_versions
from pipeline.config import Config, validate
from pipeline.plan.costs.student import Student
from pipeline.plan.recipe import Recipe
from pipeline.training.config import StageConfig

DECIDING = ("torch", "transformers", "timm")
"""Libraries whose version can change the speed of a step."""


class Calibration(Config):
    """Measured speeds. They hold for one machine, one student, and one way to train it."""

    measured: str = Field(description="UTC, ISO 8601")
    machine: str
    flops: dict[str, float] = Field(description="row of the stage table -> FLOP/s of one worker in training")
    start_seconds: float = Field(ge=0, description="seconds until a stage's first step: job, imports, weights")


def calibration_file(scratch: Path, recipe: Recipe, student: Student, machine: str) -> Path:
    """The file of a calibration: its name depends on all that the speeds depend on."""
    stages = {
        name: [resources.micro_batch, resources.threads, config_of(recipe, name).precision]
        for name, resources in sorted(recipe.resources.items())
        if name.startswith("stage")
    }
    installed = library_versions()
    key = digest([machine, repr(student.sizes), stages, [installed.get(name) for name in DECIDING]])
    return scratch / "calibrations" / f"{short(key)}.json"


def config_of(recipe: Recipe, step: str) -> StageConfig:
    """The settings of a stage."""
    return recipe.training.stage(step)


def this_machine() -> str:
    """A name for the machine at hand."""
    return f"{platform.node()} {platform.machine()}"


def read_calibration(file: Path) -> Calibration | None:
    """A calibration; None if there is none, or if its file is damaged: it can be measured again."""
    try:
        return validate(Calibration, json.loads(file.read_text(encoding="utf-8")), str(file))
    except (FileNotFoundError, ValueError, ConfigError):
        return None


def write_calibration(file: Path, found: Calibration) -> None:
    """Write a calibration."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, found.model_dump_json(indent=1))
