"""Were the evaluation's images trained on? Counted from the run's inventories, by the checksums of the image files.

A copy of an image that was saved anew has another checksum and is not found.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.collect import DATASET_NAMES, Run, StepView, read_tables
from pipeline.report.page import count, plural

COLUMN = "image_sha256"


@dataclass(frozen=True)
class Overlap:
    """How many of the evaluation's different images are in the data that stages were trained on."""

    images: int
    by_dataset: dict[str, int]
    trained_on: int  # the images that any of the data sets holds

    @property
    def finding(self) -> str:
        """The number and what follows from it; '' where the scores are what they seem."""
        if not self.trained_on:
            return ""
        held = " and ".join(
            f"{count(number)} of the evaluation's {plural(self.images, 'image')} {'is' if number == 1 else 'are'} also "
            f"in the {DATASET_NAMES.get(name, name)} data"
            for name, number in self.by_dataset.items()
            if number
        )
        part = "" if self.trained_on == self.images else "in part "
        return f"{held}: read the scores as {part}training scores"


def overlap_of(run: Run) -> Overlap | None:
    """None if the run cannot tell: it lacks an inventory of the evaluation, or of what some stage was trained on."""
    asked = _different(i for view in run.of_kind("evaluation") for i in run.read_by(view, "inventory"))
    trained: list[StepView] = []
    for stage in run.of_kind("checkpoint"):
        read = [i for pack in run.read_by(stage, "pack") for i in run.read_by(pack, "inventory")]
        if not read:
            return None
        trained += read
    if not asked or not trained:
        return None
    wanted = pa.array(sorted(_images(asked)), pa.string())
    found = {view.artifact.ref.name: _shared(view, wanted) for view in _different(trained)}
    both = set[str]().union(*found.values())
    return Overlap(len(wanted), {name: len(images) for name, images in found.items()}, len(both))


def overlap_words(overlap: Overlap | None) -> str:
    """A sentence about the images of the evaluation."""
    if overlap is None:
        return (
            "Whether the evaluation's images were trained on is not known here: the run lacks inventories that would "
            "tell."
        )
    if not overlap.trained_on:
        return (
            f"None of the evaluation's {plural(overlap.images, 'image')} is in the training data (compared by the "
            "checksums of their files)."
        )
    return f"By the checksums of their files, {overlap.finding}."


def _different(views: Iterable[StepView]) -> list[StepView]:
    return list({view.key: view for view in views}.values())


def _images(views: Iterable[StepView]) -> set[str]:
    """The checksums of all images of some inventories."""
    return {
        checksum
        for view in views
        for table in read_tables(view.artifact, "records/", [COLUMN])
        for checksum in pc.unique(table[COLUMN]).drop_null().to_pylist()
    }


def _shared(view: StepView, wanted: pa.Array) -> set[str]:
    """Which of these checksums an inventory holds. Its own are never all in memory: it may have millions."""
    found: set[str] = set()
    for table in read_tables(view.artifact, "records/", [COLUMN]):
        column = table[COLUMN]
        found.update(column.filter(pc.is_in(column, value_set=wanted)).to_pylist())
    return found
