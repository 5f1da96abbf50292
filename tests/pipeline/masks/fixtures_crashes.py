"""A small teacher without models, and pictures that kill the process which decodes or segments them.

`arm` names the pictures in the environment, which Ray's workers get from their driver.
"""

import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from model.teachers import rle
from model.teachers.evidence import Evidence, Instance
from model.teachers.finding import Found
from model.teachers.polygons import Region
from pipeline.masks.config import TeacherSetup
from pipeline.masks.pictures import Picture
from pipeline.masks.teachers.interface import Batches, Phase
from pipeline.masks.teachers.table import TEACHERS, TeacherKind
from pipeline.sources.images.store import ImageStore
from pipeline.steps.context import StepContext

DECODE, TEACHER, LOG = "AGEVLM_TEST_DECODE", "AGEVLM_TEST_TEACHER", "AGEVLM_TEST_LOG"
WAYS = ("segfault", "oom", "exit")


def die(way: str) -> None:
    """End this process as a crash does."""
    if way == "exit":
        os._exit(3)
    os.kill(os.getpid(), {"segfault": signal.SIGSEGV, "oom": signal.SIGKILL}[way])


def _strike(variable: str, names: Sequence[str]) -> None:
    """Die if the environment names one of these pictures ('5.jpg=oom'); '*' is every picture. Notes each death."""
    for entry in filter(None, os.environ.get(variable, "").split(",")):
        name, way = entry.split("=")
        if name in (*names, "*") and names:
            with open(os.environ[LOG], "a", encoding="ascii") as log:
                log.write(f"{variable} {' '.join(names)}\n")
            die(way)


class CrashingImages(ImageStore):
    """Images of which some kill the process that reads them."""

    def read_checked(self, locator: str, sha256: str) -> bytes:
        """As the image store, or the end of the process."""
        _strike(DECODE, [locator])
        return super().read_checked(locator, sha256)


def open_regions(setup: TeacherSetup) -> Phase:
    """Regions that depend on the picture and on the text."""

    def find(pictures: Sequence[Picture], before: Sequence[Sequence[Any]]) -> tuple[list[list[Found]], Batches]:
        _strike(TEACHER, [picture.queries[0]["image"] for picture in pictures])
        return [[_found(picture, text) for text in picture.texts] for picture in pictures], {"seen": [len(pictures)]}

    return find


def open_masks(setup: TeacherSetup) -> Phase:
    """The regions as masks."""

    def segment(pictures: Sequence[Picture], before: Sequence[Sequence[Any]]) -> tuple[list[list[Evidence]], Batches]:
        made = []
        for picture, own in zip(pictures, before, strict=True):
            height, width = picture.image.shape[:2]
            made.append([_evidence(found, height, width) for found in own])
        return made, {"masked": [len(pictures)]}

    return segment


def _found(picture: Picture, text: str) -> Found:
    third = float(np.mean(picture.image)) / 3.0  # a number that has no short decimal form
    polygon = (1.0, 1.0, 9.0 + len(text) / 7.0, 1.0, 9.0, 9.0 + third / 100.0)
    return Found(text, (Region((polygon,)),), score=third / 255.0)


def _evidence(found: Found, height: int, width: int) -> Evidence:
    counts = found.regions[0].rle(height, width)
    area = rle.area(counts, height, width)
    instance = Instance(counts, area, area / (height * width), found.regions[0].box, found.regions[0].polygons)
    return Evidence(found.query, "ok", polygon_score=found.score, instances=(instance,))


def use_small_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the step segment use this module's teacher and images."""
    kind = TeacherKind(
        phases=tuple(f"{__name__}:{name}" for name in ("open_regions", "open_masks")),
        carried=TEACHERS["florence_sam"].carried,
        weights=(),  # so its processes start without torch
    )
    monkeypatch.setitem(TEACHERS, "florence_sam", kind)
    monkeypatch.setattr(StepContext, "images", _images)


def _images(context: StepContext) -> CrashingImages:
    plain = context.dataset("pretrain").images()
    return CrashingImages(plain.location, plain.kept, plain.aliases)
