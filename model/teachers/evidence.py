"""The evidence that a teacher gives for one query: the seam between teachers and everything after them. No torch."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "no_region", "error"]
Polygon = tuple[float, ...]  # flat x0, y0, x1, y1, ... in pixels
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class Instance:
    """One object: its mask, and the region that led to it, in pixels of the full picture.

    A figure that a teacher does not have is None, and no gate rejects it.
    """

    rle: str
    """Counts of the mask (COCO's compressed run-length encoding)."""
    area: int
    """Pixels of the mask."""
    area_fraction: float
    """Share of the picture that the mask covers."""
    box: Box
    """Smallest box around the region that was found; of the mask, where a teacher finds no regions."""
    polygons: tuple[Polygon, ...] = ()
    """Florence-2's."""
    phrase: str = ""
    """The words of the query that the object was found for; '' for the whole query."""
    sam_iou: float | None = None
    """SAM's own prediction of the mask's IoU."""
    agreement_iou: float | None = None
    """IoU of the region and the mask."""
    stability: float | None = None
    """IoU of the masks at a higher and at a lower threshold of SAM's logits."""


@dataclass(frozen=True)
class Evidence:
    """All that a teacher says about one query."""

    query: str
    """The text that was really asked; cut if the given one was too long."""
    status: Status
    reason: str = ""
    """Of 'error': a name, then ': ' and details. Of 'no_region': a name, or '' if the teacher found nothing."""
    polygon_score: float | None = None
    """Geometric mean probability of Florence-2's tokens."""
    ended: bool | None = None
    """False if Florence-2's answer was cut off by the token budget."""
    answer_tokens: int | None = None
    """Tokens of Florence-2's answer, with the end mark."""
    degenerate: int = 0
    """Regions without area (lines, points) that were dropped."""
    instances: tuple[Instance, ...] = ()
