"""Masks with a price: gate settings with the precision that they give and the share of the masks that they keep.

Precision is the share of the accepted masks whose IoU with the truth is at least a level; a mask of an absent object is
wrong. The gates are fitted on one half of the images where the truth is known, and checked on the other half.

The search starts with open gates and tightens them step by step. A step raises one gate so far that it rejects a few
per cent of the masks that are left; of all gates it takes the one that gains most precision per rejected mask. This
gives a path from all masks to few good ones, one for each IoU level and each set of gates in SETS. Of all settings on
these paths that reach the wanted precision, the one that keeps most masks is taken, without the gates that it does not
need.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.masks.candidates import POWERS, Candidates
from pipeline.masks.config import MaskGates
from pipeline.masks.gates import PER_INSTANCE

LEVELS = (0.5, 0.7, 0.8)
PRECISIONS = (0.8, 0.9, 0.95)
"""IoU levels and wanted precisions of the table."""
SEARCHED = ("min_polygon_score", *PER_INSTANCE, "min_area")
"""The gates that are searched; `require_ended` and `max_area` stay as they are given."""
SETS = (SEARCHED, SEARCHED[:-1])
"""The gates that are tightened on a path. A path that takes the area away first can end far from good masks."""
SEARCH_ROWS = 20_000  # fitted masks, about, that the paths are found on; every setting is measured on all of them
STEP, LEAST_STEP = 0.04, 10  # share and number of the accepted masks that a step of the search rejects
FEWEST = 40  # accepted masks of the fitted half at which the search ends
DIGITS = 4  # of a threshold
TOLERANCE = 0.05  # between predicted and held-out precision
Z = 1.959964  # of a 95 % interval

Accepted = npt.NDArray[np.bool_]
Settings = dict[str, float]


@dataclass(frozen=True)
class Price:
    """A gate setting, and its precision at one IoU level."""

    iou: float
    """The level: an accepted mask with at least this IoU is right."""
    wanted: float
    """The precision that was asked for."""
    gates: Mapping[str, Any] | None
    """Values of MaskGates; None if no setting reaches the wanted precision."""
    predicted: float | None = None
    """Precision on the half that was fitted."""
    kept: float | None = None
    """Share of its masks that are accepted."""
    held_out: float | None = None
    """Precision on the other half; None if nothing of it is accepted."""
    held_out_kept: float | None = None
    low: float | None = None
    high: float | None = None
    """95 % interval of the held-out precision (Wilson)."""
    accepted: int = 0
    """Accepted masks of the held-out half."""
    fitted: int = 0
    """Masks of the half that was fitted."""

    @property
    def verdict(self) -> str:
        """A sentence: does the held-out half confirm the setting?"""
        if self.gates is None or self.predicted is None:
            few = self.fitted < 2 * FEWEST
            return "too few masks to fit gates on" if few else "no setting of the gates reaches this"
        if self.held_out is None or self.low is None or self.high is None:
            return "no held-out mask is accepted: too few to tell"
        if self.high - self.low > 2 * TOLERANCE:
            return f"too few held-out masks to tell: between {self.low:.2f} and {self.high:.2f}"
        if abs(self.held_out - self.predicted) <= TOLERANCE:
            return "confirmed"
        return f"not confirmed: differs by {abs(self.held_out - self.predicted):.2f}"

    def to_json(self) -> dict[str, Any]:
        """Plain data for a file."""
        return {**vars(self), "gates": None if self.gates is None else dict(self.gates), "verdict": self.verdict}


def price_table(
    candidates: Candidates,
    base: MaskGates,
    levels: Sequence[float] = LEVELS,
    precisions: Sequence[float] = PRECISIONS,
) -> list[Price]:
    """A price per level and precision.

    base: the values of the gates that are not searched.
    """
    fitted = candidates.part(~candidates.held_out)
    few = fitted.part(np.arange(0, len(fitted), max(1, len(fitted) // SEARCH_ROWS)))
    settings: dict[tuple[float, ...], Settings] = {}
    for level in sorted({*levels, *LEVELS}):
        for gates in SETS:
            settings |= {tuple(found.values()): found for found in tighten(few, base, level, gates)}
    tried = settings.values() if len(fitted) else ()
    judged = [(found, *_measured(fitted, base, found, levels)) for found in tried]
    return [
        _priced(candidates, base, level, wanted, [(found, kept, shares[index]) for found, kept, shares in judged])
        for index, level in enumerate(levels)
        for wanted in precisions
    ]


def price_summary(candidates: Candidates, base: MaskGates) -> dict[str, Any]:
    """The table as plain data for `prices.json`, with the numbers of masks behind it."""
    held_out = int(candidates.held_out.sum())
    rows = [price.to_json() for price in price_table(candidates, base)] if len(candidates) else []
    return {"masks": len(candidates), "fitted": len(candidates) - held_out, "held_out": held_out, "prices": rows}


def tighten(
    candidates: Candidates, base: MaskGates, level: float, gates: Sequence[str] = SEARCHED
) -> Iterator[Settings]:
    """The path of settings from open gates on, where only some gates are tightened. Deterministic."""
    settings = dict.fromkeys(SEARCHED, 0.0)
    left = candidates
    while True:
        accepted, right = judge(left, base, settings, level)
        left, right = left.part(accepted), right[accepted]
        yield dict(settings)
        if len(left) < FEWEST or right.all():
            return
        best: tuple[float, float, str, float] | None = None
        for gate in gates:
            values = _row_figure(left, settings, gate)
            threshold = _raised(values, settings[gate])
            if threshold is None:
                continue
            stays, good = judge(left, base, settings | {gate: threshold}, level)
            count = int(stays.sum())
            if not count or (count == len(left) and good.sum() <= right.sum()):
                continue
            # Per rejected mask. A mask that only loses a wrong instance is not rejected, and can become right.
            gain = (good[stays].mean() - right.mean()) / (len(left) - count or 0.5)
            if best is None or (gain, count) > best[:2]:
                best = (gain, count, gate, threshold)
        if best is None:
            return
        settings[best[2]] = best[3]


def accept(candidates: Candidates, base: MaskGates, settings: Settings) -> tuple[Accepted, npt.NDArray[np.float64]]:
    """(n,) accepted masks and (n,) the IoU of what is left of each, for a setting. The same rules as `gates.gate`."""
    subset = candidates.survives(settings) @ POWERS
    rows = np.arange(len(candidates))
    area = candidates.area[rows, subset]
    accepted = (subset > 0) & (candidates.score >= settings["min_polygon_score"])
    accepted &= (area > 0) & (area >= settings["min_area"]) & (area <= base.max_area)
    if base.require_ended:
        accepted &= candidates.ended
    return accepted, candidates.iou[rows, subset]


def judge(candidates: Candidates, base: MaskGates, settings: Settings, level: float) -> tuple[Accepted, Accepted]:
    """(n,) accepted masks and (n,) masks of at least this IoU, for a setting."""
    accepted, iou = accept(candidates, base, settings)
    return accepted, iou >= level


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, `right` of `count`, by Wilson's formula."""
    if not count:
        return 0.0, 1.0
    share, spread = right / count, Z * Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / count + spread / count / 4) / (1 + spread)
    # At the ends the formula gives the end itself, up to rounding.
    return middle - half if right else 0.0, middle + half if right < count else 1.0


def _priced(
    candidates: Candidates, base: MaskGates, level: float, wanted: float, judged: list[tuple[Settings, float, float]]
) -> Price:
    """judged: settings with the share of the fitted masks that they keep, and their precision."""
    fitted, other = candidates.part(~candidates.held_out), candidates.part(candidates.held_out)
    reached = max((item for item in judged if item[2] >= wanted), key=lambda item: item[1:], default=None)
    if reached is None:
        return Price(level, wanted, None, fitted=len(fitted))
    settings = _without_needless(fitted, base, reached[0], level, wanted)
    accepted, right = judge(other, base, settings, level)
    count, good = int(accepted.sum()), int((accepted & right).sum())
    low, high = wilson(good, count)
    return Price(
        iou=level,
        wanted=wanted,
        gates=_gates(base, settings),
        predicted=round(_precision(fitted, base, settings, level), 6),
        kept=round(float(judge(fitted, base, settings, level)[0].mean()), 6),
        held_out=round(good / count, 6) if count else None,
        held_out_kept=round(count / len(other), 6) if len(other) else None,
        low=round(low, 6),
        high=round(high, 6),
        accepted=count,
        fitted=len(fitted),
    )


def _measured(
    candidates: Candidates, base: MaskGates, settings: Settings, levels: Sequence[float]
) -> tuple[float, list[float]]:
    """The share of the masks that a setting keeps, and its precision at each level."""
    accepted, iou = accept(candidates, base, settings)
    good = iou[accepted]
    return float(accepted.mean()), [float((good >= level).mean()) if len(good) else 0.0 for level in levels]


def _precision(candidates: Candidates, base: MaskGates, settings: Settings, level: float) -> float:
    accepted, right = judge(candidates, base, settings, level)
    return float(right[accepted].mean()) if accepted.any() else 0.0


def _without_needless(
    candidates: Candidates, base: MaskGates, settings: Settings, level: float, wanted: float
) -> Settings:
    """The setting with those gates opened again that are not needed for the wanted precision."""
    for gate in SEARCHED:
        opened = settings | {gate: 0.0}
        if settings[gate] and _precision(candidates, base, opened, level) >= wanted:
            settings = opened
    return settings


def _row_figure(candidates: Candidates, settings: Settings, gate: str) -> npt.NDArray[np.float64]:
    """(n,) the figure of each accepted mask that a gate limits: the least of its instances that are left."""
    if gate == "min_polygon_score":
        return candidates.score
    survives = candidates.survives(settings)
    if gate == "min_area":
        area: npt.NDArray[np.float64] = candidates.area[np.arange(len(candidates)), survives @ POWERS]
        return area
    least: npt.NDArray[np.float64] = np.where(survives, candidates.figures[gate], np.inf).min(axis=1)
    return least


def _raised(values: npt.NDArray[np.float64], now: float) -> float | None:
    """A threshold that rejects about STEP of the values; None if they are all the same.

    It rejects LEAST_STEP of few values: fewer would be chosen for their luck, and the other half does not share that.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    least = known.min()
    threshold = float(np.quantile(known, min(1.0, max(STEP, LEAST_STEP / len(known)))))
    if threshold <= least:
        above = known[known > least]
        if not len(above):
            return None
        threshold = float(above.min())
    # Rounded up, so that it rejects at least what the exact one does; a threshold is at most 1.
    rounded = math.ceil(threshold * 10**DIGITS - 1e-9) / 10**DIGITS
    return rounded if now < rounded <= 1.0 else None


def _gates(base: MaskGates, settings: Settings) -> dict[str, Any]:
    return {**settings, "require_ended": base.require_ended, "max_area": base.max_area}
