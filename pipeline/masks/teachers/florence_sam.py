"""Florence-2 and SAM as a teacher of two phases: regions, then masks. Imports torch."""

from collections.abc import Sequence
from typing import Any

from model.teachers.evidence import Evidence
from model.teachers.finding import Finder, Found
from model.teachers.florence import FlorenceSettings, FlorenceTeacher
from model.teachers.sam import SamOptions, SamTeacher
from model.teachers.segmenting import Segmenter
from pipeline.compute.hub import local_folder
from pipeline.masks.config import TeacherSetup
from pipeline.masks.pictures import Picture
from pipeline.masks.teachers.interface import Batches, Phase


def open_finder(setup: TeacherSetup) -> Phase:
    """Load Florence-2. Raises ConfigError."""
    config = setup.config
    florence = FlorenceTeacher.load(
        local_folder("florence", setup.weights["florence"]),
        FlorenceSettings(
            task=config.task, prompt=config.prompt, max_new_tokens=config.max_new_tokens, beams=config.beams
        ),
        setup.device,
        config.precision,
    )
    finder = Finder(florence, config.batch_queries)

    def find(pictures: Sequence[Picture], before: Sequence[Sequence[Any]]) -> tuple[list[list[Found]], Batches]:
        return finder.find([(picture.image, picture.texts) for picture in pictures])

    return find


def open_segmenter(setup: TeacherSetup) -> Phase:
    """Load SAM. Raises ConfigError."""
    config = setup.config
    options = SamOptions(multimask=config.multimask, attention=config.sam_attention, compiled=config.sam_compile)
    sam = SamTeacher.load(setup.weights["sam"], config.sam_prompt, setup.device, config.precision, options)
    segmenter = Segmenter(sam, config.batch_images)

    def segment(pictures: Sequence[Picture], before: Sequence[Sequence[Any]]) -> tuple[list[list[Evidence]], Batches]:
        return segmenter.segment([picture.image for picture in pictures], before)

    return segment
