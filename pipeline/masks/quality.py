"""Quality of masks where the truth is known: IoU with the true mask, and the outcome for absent objects."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from model.teachers import rle
from pipeline.masks.statistics import distribution
from pipeline.schemas import MASK_STATUSES

Row = Mapping[str, Any]
LEVELS = (0.5, 0.7, 0.8, 0.9)
"""IoU with the truth above which masks are counted."""


class TruthComparison:
    """Measures masks against the truth, row by row.

    Args:
        truth: rows of TRUTH.
    """

    def __init__(self, truth: Iterable[Row]) -> None:
        self._truth = {(row["sample_id"], row["turn"]): row for row in truth}
        self._groups: dict[tuple[str, str], list[tuple[str, bool | None, float]]] = defaultdict(list)

    def fact(self, row: Row) -> Row | None:
        """The row of TRUTH that a row of MASKS or EVIDENCE is about; None if there is none."""
        return self._truth.get((row["sample_id"], row["turn"]))

    def add(self, row: Row) -> float | None:
        """Add a row of MASKS. Returns the IoU of its accepted mask with the truth, 0 for one of an absent object.

        None: no mask was accepted, or no truth is known.
        """
        fact = self._truth.get((row["sample_id"], row["turn"]))
        present = None if fact is None else bool(fact["present"])
        accepted = fact is not None and row["status"] == "ok"
        score = iou_with(fact, row["rle"], row["height"], row["width"]) if fact is not None and accepted else 0.0
        status = row["status"]
        item = (status, present, score)
        for key in (("overall", ""), ("kinds", row["query_kind"]), ("statuses", status)):
            self._groups[key].append(item)
        return score if accepted else None

    def summary(self) -> dict[str, Any]:
        """Statistics of all rows ('overall'), per query kind ('kinds') and per status ('statuses').

        present / absent: queries whose object is / is not in the picture;
        iou: distribution over present queries with an accepted mask;
        iou_above: per level of LEVELS the share of the accepted masks of known truth with at least this IoU; the mask
        of an absent object has IoU 0;
        mean_iou_present: mean over all present queries, 0 where no mask was accepted;
        accepted_present, accepted_absent: shares of present and absent queries with an accepted mask (the second are
        mistakes: the object is not there);
        absent_outcomes: absent queries by status; the teachers are right only in 'no_region';
        unknown: queries without ground truth.
        """
        result: dict[str, Any] = {"overall": _summary(self._groups[("overall", "")]), "kinds": {}, "statuses": {}}
        for (group, name), items in sorted(self._groups.items()):
            if name:
                result[group][name] = _summary(items)
        return result


def iou_with(fact: Row, counts: str, height: int, width: int) -> float:
    """IoU of a mask and the true mask of a row of TRUTH: 0 if the object is absent, or if the frames differ.

    Where the frames differ the truth is that of another picture.
    """
    if not fact["present"] or (fact["height"], fact["width"]) != (height, width):
        return 0.0
    return rle.iou(counts, fact["rle"], height, width)


def _summary(items: list[tuple[str, bool | None, float]]) -> dict[str, Any]:
    present = [item for item in items if item[1] is True]
    absent = [item for item in items if item[1] is False]
    accepted = [score for status, _, score in present if status == "ok"]
    wrong = sum(status == "ok" for status, _, _ in absent)
    return {
        "queries": len(items),
        "present": len(present),
        "absent": len(absent),
        "unknown": len(items) - len(present) - len(absent),
        "iou": distribution(accepted),
        "iou_above": {
            str(level): _share(sum(score >= level for score in accepted), len(accepted) + wrong) for level in LEVELS
        },
        "mean_iou_present": _share(sum(accepted), len(present)),
        "accepted_present": _share(len(accepted), len(present)),
        "accepted_absent": _share(wrong, len(absent)),
        "absent_outcomes": {name: sum(status == name for status, _, _ in absent) for name in MASK_STATUSES},
    }


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
