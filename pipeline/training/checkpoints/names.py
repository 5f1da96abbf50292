"""The names of a stage's commits, such as checkpoint 'step-00000512' after 512 steps. Imports nothing heavy."""

import re

from pipeline.artifacts.shards import Shards

RESULT = "stage"
"""Name of the commit of a trained stage."""
CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints among a step's work files."""
NAME = re.compile(r"step-(\d{8,})")


def name_of(step: int) -> str:
    """The name of a step's checkpoint."""
    return f"step-{step:08d}"


def sealed_steps(shards: Shards) -> list[int]:
    """The steps that have a sealed checkpoint, the newest first. Nothing is checked."""
    found = (NAME.fullmatch(name) for name in shards.names())
    return sorted((int(match[1]) for match in found if match), reverse=True)
