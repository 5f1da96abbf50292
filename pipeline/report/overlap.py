"""Counts which of the evaluation's images were trained on, by the checksums of the image files.

A copy of an image that was saved again has another checksum and is not found.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.collect import DATASET_NAMES, Run, StepView, read_tables
from pipeline.report.formatting import count, plural

COLUMN = "image_sha256"


@dataclass(frozen=True)
class Overlap:
    """Number of the evaluation's different images that are in the data that stages were trained on."""

    images: int
    by_dataset: dict[str, int]
    trained_on: int  # the images that any of the data sets holds

    @property
    def finding(self) -> str:
        """The number and what follows from it; '' if no image was trained on."""
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
    """None if the run lacks an inventory of the evaluation, or of what some stage was trained on."""
    asked = _different(i for view in run.of_kind("evaluation") for i in run.read_by(view, "inventory"))
    trained: list[StepView] = []
    for stage in run.of_kind("checkpoint"):
        read = [i for pack in run.read_by(stage, "pack") for i in run.read_by(pack, "inventory")]
        if not read:
            return None
        trained += read
    if not asked or not trained:
        return None
    wanted = pa.array(sorted({checksum for view in asked for checksum in _checksums(view)}), pa.string())
    found = {view.name: set(_checksums(view, wanted)) for view in _different(trained)}
    return Overlap(
        len(wanted), {name: len(shared) for name, shared in found.items()}, len(set().union(*found.values()))
    )


def overlap_words(overlap: Overlap | None) -> str:
    """A sentence about the images of the evaluation."""
    if overlap is None:
        return "The run lacks the inventories that would tell if the evaluation's images were trained on."
    if not overlap.trained_on:
        return (
            f"None of the evaluation's {plural(overlap.images, 'image')} is in the training data (compared by the "
            "checksums of their files)."
        )
    return f"By the checksums of their files, {overlap.finding}."


def _different(views: Iterable[StepView]) -> list[StepView]:
    return list({view.key: view for view in views}.values())


def _checksums(view: StepView, wanted: pa.Array | None = None) -> Iterable[str]:
    """The checksums of an inventory's images; only those in `wanted`, where an inventory may hold millions."""
    for table in read_tables(view.artifact, "records/", [COLUMN]):
        column = pc.unique(table[COLUMN]).drop_null()
        yield from (column if wanted is None else column.filter(pc.is_in(column, value_set=wanted))).to_pylist()
