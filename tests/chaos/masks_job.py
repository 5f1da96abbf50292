"""`python -m tests.chaos.masks_job SPEC`: the step segment, which notes each shard that its teacher begins.

The teacher is the miniature one. Decoding is slowed down, so that a kill can hit it.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.__main__ import app
from pipeline.masks.config import TeacherSetup
from pipeline.masks.pictures import Picture
from pipeline.masks.teachers.interface import Batches, Phase
from pipeline.masks.teachers.table import TEACHERS, open_entries
from pipeline.sources.images.store import ImageStore
from pipeline.steps.context import StepContext

LOG = "AGEVLM_CHAOS_LOG"
SLOW_DECODING = 0.4  # seconds an image: decoding goes on beside the teacher
PLAIN = TEACHERS["florence_sam"]


class SlowImages(ImageStore):
    """Images that take a while to read."""

    def read_checked(self, locator: str, sha256: str) -> bytes:
        """As the image store, later."""
        time.sleep(SLOW_DECODING)
        return super().read_checked(locator, sha256)


def open_noted(setup: TeacherSetup) -> Phase:
    """The first phase; appends the pictures of each shard that it begins to a file."""
    (phase,) = open_entries(PLAIN.phases[:1], setup)

    def find(pictures: Sequence[Picture], before: Sequence[Sequence[Any]]) -> tuple[list[list[Any]], Batches]:
        line = " ".join(picture.queries[0]["image"] for picture in pictures)
        descriptor = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)
        return phase(pictures, before)

    return find


def _images(context: StepContext) -> SlowImages:
    plain = context.dataset("pretrain").images()
    return SlowImages(plain.location, plain.kept, plain.aliases)


def main() -> None:
    """Run the step whose spec is the argument."""
    kind = replace(PLAIN, phases=(f"{open_noted.__module__}:open_noted", *PLAIN.phases[1:]))
    TEACHERS["florence_sam"] = kind
    StepContext.images = _images  # type: ignore[method-assign,assignment]
    app(["run", sys.argv[1]])


if __name__ == "__main__":
    from tests.chaos import masks_job

    masks_job.main()  # not as __main__, which Ray's workers could not import
