"""Masks and pictures against the true masks, where the data set has them (rendered worlds, COCO's annotations).

Single masks may be wrong, because the teachers are. So all rows of a proof are judged together: on average the masks
must fit the truth better than they fit it mirrored, upside down or with the truth of another row; and the picture's
colours must change where the true object ends, more than in any of these other places.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.training.alignment.claims import Claim, Shown
from pipeline.training.alignment.square import Square, explained

LEAST_ROWS = 8
"""Rows with a true mask that are needed for a judgement."""
LEAST_IOU, LEAST_EXPLAINED = 0.3, 0.2
"""Below these in every place nothing is judged: the teachers found other objects, or the objects' colours are those of
the background, as in photographs. A wrong place would then be as good as the right one."""
Change = Callable[[Any], Any]
TURNS: dict[str, Change] = {
    "mirrored": lambda mask: mask[:, ::-1],
    "upside down": lambda mask: mask[::-1],
    "turned by 180": lambda mask: mask[::-1, ::-1],
}


@dataclass(frozen=True)
class Truth:
    """Means over the rows with a true mask.

    iou: of the mask and the true one. explained: share of the colours' variance in the picture that the true mask's
    place explains. turned_iou, turned_explained: the same with the masks changed in each way.
    """

    rows: int
    iou: float
    explained: float
    turned_iou: dict[str, float]
    turned_explained: dict[str, float]

    @property
    def problems(self) -> list[str]:
        """The reasons why the masks or the pictures are not where the truth is; empty if they are."""
        if self.rows < LEAST_ROWS:
            return []
        found = []
        for name, value in self.turned_iou.items():
            if value > max(self.iou, LEAST_IOU):
                found.append(f"the masks fit the truth better if they are {name}: IoU {value:.2f}, not {self.iou:.2f}")
        for name, value in self.turned_explained.items():
            if value > max(self.explained, LEAST_EXPLAINED):
                found.append(
                    f"the pictures fit the true masks better if those are {name}: they explain {100 * value:.0f} % of "
                    f"the colours, not {100 * self.explained:.0f} %"
                )
        return found


def compare(rows: Sequence[tuple[Shown, Claim]], square: Square) -> Truth | None:
    """The comparison over all rows with a true mask; None if there is none."""
    known = [(shown, claim.fact, true) for shown, claim in rows if (true := claim.fact.true_mask) is not None]
    if not known:
        return None
    ious: dict[str, list[float]] = {name: [] for name in ("", *TURNS)}
    shares: dict[str, list[float]] = {name: [] for name in ("", *TURNS, *_moves(square))}
    for shown, fact, true in known:
        mask = fact.mask
        ious[""].append(_iou(mask, true))
        for name, turn in TURNS.items():
            ious[name].append(_iou(turn(mask), true))
        if shown.blocks is None:
            continue
        coverage = square.coverage(true, square.place(fact.height, fact.width))
        for name, change in {"": lambda cover: cover, **TURNS, **_moves(square)}.items():
            shares[name].append(explained(shown.blocks, change(coverage)))
    means = [{name: float(np.mean(values or [0.0])) for name, values in table.items()} for table in (ious, shares)]
    iou, share = means[0].pop(""), means[1].pop("")
    return Truth(len(known), iou, share, *means)


def _moves(square: Square) -> dict[str, Change]:
    half = round(square.stride / 2 / square.block)
    ways = {"right": (half, 1), "left": (-half, 1), "down": (half, 0), "up": (-half, 0)}
    return {f"moved by half a cell {name}": partial(_rolled, by=by, axis=axis) for name, (by, axis) in ways.items()}


def _rolled(cover: Any, by: int, axis: int) -> Any:
    return np.roll(cover, by, axis)


def _iou(one: Any, other: Any) -> float:
    union = int(np.sum(one | other))
    return int(np.sum(one & other)) / union if union else 0.0
