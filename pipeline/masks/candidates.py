"""Evidence as arrays: the figures of every query's masks and the IoU with the truth of what each gate would leave.

The search for gates (`pipeline.masks.price`) asks thousands of times what a setting accepts. So the union of every
subset of a query's instances is measured once; a setting then only picks one of them.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.teachers import rle
from pipeline.masks.gates import PER_INSTANCE
from pipeline.masks.quality import iou_with
from pipeline.masks.statistics import Row

MOST = 4
"""Instances of a query that are told apart. Of more, the smallest count as one, with the least of their figures."""
COLUMNS = ("sample_id", "turn", "image_sha256", "height", "width", "status", "polygon_score", "ended")
INSTANCE_COLUMNS = ("rle", "area", *PER_INSTANCE.values())
"""The columns of EVIDENCE, and of its instances, that candidates are made from."""
Floats = npt.NDArray[np.float64]
POWERS = 1 << np.arange(MOST)
"""Numbers of the subsets with one instance."""


@dataclass(frozen=True)
class Candidates:
    """n queries with at least one instance and a known truth. A figure that the teacher does not have is infinite.

    A subset of a query's instances is a number whose bit k stands for its k-th instance.
    """

    score: Floats
    """(n,) polygon score."""
    ended: npt.NDArray[np.bool_]
    """(n,) False: the token budget cut the answer off."""
    figures: Mapping[str, Floats]
    """Gate -> (n, MOST) its figure for each instance; -1 where there is no instance."""
    area: Floats
    """(n, 2 ** MOST) area of the union of a subset, fraction of the image."""
    iou: Floats
    """(n, 2 ** MOST) its IoU with the truth; 0 if the object is absent."""
    held_out: npt.NDArray[np.bool_]
    """(n,) True for the half that is not fitted."""

    def __len__(self) -> int:
        return len(self.score)

    def survives(self, limits: Mapping[str, float]) -> npt.NDArray[np.bool_]:
        """(n, MOST) True for the instances that pass the gates on instances. limits: gate -> its setting."""
        found = np.ones((len(self), MOST), dtype=bool)
        for gate, figures in self.figures.items():
            found &= figures >= max(limits[gate], 0.0)
        return found

    def part(self, rows: npt.NDArray[Any]) -> "Candidates":
        """The candidates with these positions, or with True in a mask (n,)."""
        return Candidates(
            self.score[rows],
            self.ended[rows],
            {gate: values[rows] for gate, values in self.figures.items()},
            self.area[rows],
            self.iou[rows],
            self.held_out[rows],
        )


class CandidateRows:
    """Collects rows of evidence for `Candidates`."""

    def __init__(self) -> None:
        self._single: list[tuple[float, bool, bool]] = []
        self._figures: list[list[list[float]]] = []
        self._subsets: list[tuple[list[float], list[float]]] = []

    def add(self, evidence: Row, fact: Row | None) -> None:
        """Add a row of EVIDENCE and the row of TRUTH about it. A row without a region or without truth is left out."""
        instances = evidence["instances"]
        if fact is None or evidence["status"] == "error" or not instances:
            return
        height, width = evidence["height"], evidence["width"]
        merged = _at_most(instances, height, width)
        score, ended = evidence["polygon_score"], evidence["ended"] is not False
        self._single.append((np.inf if score is None else score, ended, is_held_out(evidence["image_sha256"])))
        self._figures.append([[_figure(instance[c]) for instance in merged] for c in PER_INSTANCE.values()])
        areas, ious = [0.0], [0.0]
        unions: list[str] = [""]
        for subset in range(1, 2 ** len(merged)):
            top = subset.bit_length() - 1
            rest, own = unions[subset - (1 << top)], merged[top]["rle"]
            counts = rle.union([rest, own], height, width) if rest else own
            unions.append(counts)
            areas.append(rle.area(counts, height, width) / (height * width))
            ious.append(iou_with(fact, counts, height, width))
        self._subsets.append((areas, ious))

    def candidates(self) -> Candidates:
        """The rows as arrays."""
        count = len(self._single)
        figures = {gate: np.full((count, MOST), -1.0) for gate in PER_INSTANCE}
        area, iou = np.zeros((count, 2**MOST)), np.zeros((count, 2**MOST))
        for row, (columns, (areas, ious)) in enumerate(zip(self._figures, self._subsets, strict=True)):
            for gate, values in zip(PER_INSTANCE, columns, strict=True):
                figures[gate][row, : len(values)] = values
            area[row, : len(areas)], iou[row, : len(ious)] = areas, ious
        score, ended, held_out = (list(column) for column in zip(*self._single, strict=True)) if count else ([], [], [])
        return Candidates(
            np.array(score, dtype=np.float64),
            np.array(ended, dtype=bool),
            figures,
            area,
            iou,
            np.array(held_out, dtype=bool),
        )


def candidates_of(rows: Iterable[tuple[Row, Row | None]]) -> Candidates:
    """The candidates of rows of EVIDENCE, each with its row of TRUTH or None."""
    collected = CandidateRows()
    for evidence, fact in rows:
        collected.add(evidence, fact)
    return collected.candidates()


def is_held_out(image_sha256: str) -> bool:
    """True for half of the images, by a hash of their checksums.

    All queries about an image are in one half, also those of different samples: their masks are not independent.
    """
    return bool(hashlib.sha256(f"price {image_sha256}".encode()).digest()[0] & 1)


def _figure(value: float | None) -> float:
    return np.inf if value is None else value


def _at_most(instances: list[dict[str, Any]], height: int, width: int) -> list[dict[str, Any]]:
    """The instances, at most MOST: of more, the smallest are merged."""
    if len(instances) <= MOST:
        return instances
    ordered = sorted(instances, key=lambda instance: (-instance["area"], instance["rle"]))
    kept, small = ordered[: MOST - 1], ordered[MOST - 1 :]
    least = {c: min((i[c] for i in small if i[c] is not None), default=None) for c in PER_INSTANCE.values()}
    return [*kept, {"rle": rle.union([instance["rle"] for instance in small], height, width), **least}]
