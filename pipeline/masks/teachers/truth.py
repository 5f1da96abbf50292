"""The ground truth as a teacher: the masks that the source knows, exact or drawn by people. No model, no torch."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from model.errors import ConfigError
from model.teachers import rle
from model.teachers.evidence import Box, Evidence, Instance
from pipeline.masks.config import TeacherSetup
from pipeline.masks.pictures import Picture
from pipeline.masks.teachers.interface import Batches, Phase
from pipeline.masks.teachers.truth_table import TruthTable

ABSENT: Final = "absent"
"""Reason of 'no_region': the source says that the object is not in the picture."""
NO_TRUTH: Final = "no_truth"
"""Reason of 'no_region': the source says nothing about this turn."""
EMPTY: Final = "empty_truth"
"""Reason of 'no_region': the source's mask has no pixel."""
OTHER_SIZE: Final = "truth_of_another_size"
DAMAGED: Final = "damaged_truth"


def open_truth(setup: TeacherSetup) -> Phase:
    """Index the truth. Raises ConfigError if there is none, DataError if it cannot be read."""
    if not setup.truth or setup.store is None:
        raise ConfigError("teacher.kind = 'truth', but the data set has no ground truth; use another teacher")
    table = TruthTable.open(setup.truth, setup.store)

    def look_up(pictures: Sequence[Picture], before: Sequence[Sequence[Any]]) -> tuple[list[list[Evidence]], Batches]:
        found = [
            [evidence_of(query, table.find(query["sample_id"], query["turn"])) for query in picture.queries]
            for picture in pictures
        ]
        return found, {}

    return look_up


def evidence_of(query: Mapping[str, Any], truth: Mapping[str, Any] | None) -> Evidence:
    """The evidence for a query (QUERIES) from its turn's truth (TRUTH), or from None."""
    text = query["query"]
    if truth is None or not truth["present"]:
        return Evidence(text, "no_region", NO_TRUTH if truth is None else ABSENT)
    height, width = query["height"], query["width"]
    if (truth["height"], truth["width"]) != (height, width):
        sizes = f"the truth is {truth['width']} x {truth['height']}, the picture {width} x {height}"
        return Evidence(text, "error", f"{OTHER_SIZE}: {sizes}; run inventory again")
    try:
        area, box = extent(truth["rle"] or "", height, width)
    except ValueError as error:
        return Evidence(text, "error", f"{DAMAGED}: {error}; run inventory again")
    if area == 0:
        return Evidence(text, "no_region", EMPTY)
    instance = Instance(rle=truth["rle"], area=area, area_fraction=area / (height * width), box=box)
    return Evidence(text, "ok", instances=(instance,))


def extent(counts: str, height: int, width: int) -> tuple[int, Box]:
    """Pixels of a mask and the smallest box around them; (0, 0, 0, 0) for none.

    Raises ValueError if `counts` is no encoding of a mask of this size.
    """
    places = rle.boundaries(counts)
    if (np.diff(places, prepend=0) < 0).any():
        raise ValueError("a run of the mask has a negative length")
    edges = places.reshape(-1, 2)
    edges = edges[edges[:, 1] > edges[:, 0]]
    if not len(edges):
        return 0, (0.0, 0.0, 0.0, 0.0)
    starts, last = edges[:, 0], edges[:, 1] - 1
    if last[-1] >= height * width:
        raise ValueError(f"the mask ends behind its {width} x {height} pixels")
    columns, whole = (int(starts[0] // height), int(last[-1] // height)), starts // height != last // height
    # A run over several columns touches the picture's lower border in the first and its upper border in the last.
    top = 0 if whole.any() else int((starts % height).min())
    bottom = height - 1 if whole.any() else int((last % height).max())
    return int(np.sum(edges[:, 1] - starts)), (float(columns[0]), float(top), columns[1] + 1.0, bottom + 1.0)
