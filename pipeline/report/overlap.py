"""The section on data, and the evaluation's images that were trained on: what the step `overlap` found.

Images are compared by the checksums of their files. A copy of an image that was saved again is not found.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.report.collect import DATASET_NAMES, Run, StepView
from pipeline.report.formatting import count, plural, reasons_text


@dataclass(frozen=True)
class DatasetRow:
    """One data set: its duplicates, and the images that other data sets hold too."""

    key: str
    name: str  # as the paper calls it
    facts: dict[str, Any]  # `pipeline.steps.overlap.DatasetFacts`
    shared: dict[str, str]  # other data set -> its images and the records on them, in words
    dropped: str  # records that training left out, in words


def dataset_rows(run: Run) -> list[DatasetRow]:
    """The rows of the section on data; none if the run did not compare its data sets."""
    rows = []
    for view in run.of_kind("overlap"):
        for name, facts in _statistics(view).items():
            shared = {
                other: f"{count(images)} ({plural(facts['records_on_images_in'][other], 'record')})" if images else "0"
                for other, images in facts["images_in"].items()
            }
            pack = run.get("pack", name)
            dropped = pack.manifest.statistics.get("dropped", {}) if pack else {}
            words = reasons_text((kind.replace("_", " "), number) for kind, number in dropped.items())
            rows.append(DatasetRow(name, DATASET_NAMES.get(name, name), facts, shared, words))
    return rows


def _statistics(view: StepView) -> dict[str, Any]:
    """The step's counts, by data set in the usual order."""
    found = view.manifest.statistics
    return {name: found[name] for name in DATASET_NAMES if name in found}


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
    """None if the run did not compare the evaluation's inventory with that of all data that stages were trained on.

    Images whose records the packs left out (`drop`) are not counted.
    """
    asked = {i.key: i for view in run.of_kind("evaluation") for i in run.read_by(view, "inventory")}
    packs: dict[str, StepView] = {}
    read: dict[str, StepView] = {}
    for stage in run.of_kind("checkpoint"):
        mine = {i.key: (pack, i) for pack in run.read_by(stage, "pack") for i in run.read_by(pack, "inventory")}
        if not mine:
            return None
        packs |= {view.name: pack for pack, view in mine.values()}
        read |= {key: view for key, (_, view) in mine.items()}
    compared = next((v for v in run.of_kind("overlap") if {*asked, *read} <= set(v.inputs)), None)
    if compared is None or not asked or not read:
        return None
    found = compared.manifest.statistics[next(iter(asked.values())).name]
    kept = [name for name, pack in packs.items() if "evaluation_images" not in pack.params.get("drop", ())]
    by_dataset = {name: found["images_in"][name] if name in kept else 0 for name in packs}
    # In more than one data set: each image counts once.
    trained_on = found["images_in_others"] if len(kept) > 1 else sum(by_dataset.values())
    return Overlap(found["images"], by_dataset, trained_on)


def overlap_words(overlap: Overlap | None) -> str:
    """A sentence about the images of the evaluation."""
    if overlap is None:
        return "The run lacks the comparison that would tell if the evaluation's images were trained on."
    if not overlap.trained_on:
        return (
            f"None of the evaluation's {plural(overlap.images, 'image')} is in the training data (compared by the "
            "checksums of their files)."
        )
    return f"By the checksums of their files, {overlap.finding}."
