"""Quality of masks where the truth is known: IoU with the true mask, and the outcome for absent objects."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from model.teachers import rle
from pipeline.masks.gates import GATES
from pipeline.masks.statistics import distribution

OUTCOMES = ("accepted", "rejected", "no_region", "error")
Row = Mapping[str, Any]


def outcome(status: str, reason: str | None) -> str:
    """The outcome of a row of MASKS, one of OUTCOMES. 'rejected' means that a gate rejected a teacher's mask.

    In the table a row with an error has the status 'rejected' too; its reason is then not the name of a gate.
    """
    return "error" if status == "rejected" and reason not in GATES else status


class TruthComparison:
    """Measures masks against the truth, row by row.

    Args:
        truth: rows of TRUTH.
    """

    def __init__(self, truth: Iterable[Row]) -> None:
        self._truth = {(row["sample_id"], row["turn"]): row for row in truth}
        self._groups: dict[tuple[str, str], list[tuple[str, bool | None, float]]] = defaultdict(list)

    def add(self, row: Row) -> None:
        """Add a row of MASKS."""
        fact = self._truth.get((row["sample_id"], row["turn"]))
        present = None if fact is None else bool(fact["present"])
        score = _iou(row, fact) if fact is not None and present and row["status"] == "accepted" else 0.0
        status = outcome(row["status"], row["reason"])
        item = (status, present, score)
        for key in (("overall", ""), ("kinds", row["query_kind"]), ("statuses", status)):
            self._groups[key].append(item)

    def summary(self) -> dict[str, Any]:
        """Statistics of all rows ('overall'), per query kind ('kinds') and per outcome ('statuses').

        present / absent: queries whose object is / is not in the picture;
        iou: distribution over present queries with an accepted mask;
        mean_iou_present: mean over all present queries, 0 where no mask was accepted;
        accepted_present, accepted_absent: shares of present and absent queries with an accepted mask (the second are
        mistakes: the object is not there);
        absent_outcomes: absent queries by outcome; the teachers are right only in 'no_region';
        unknown: queries without ground truth.
        """
        result: dict[str, Any] = {"overall": _summary(self._groups[("overall", "")]), "kinds": {}, "statuses": {}}
        for (group, name), items in sorted(self._groups.items()):
            if name:
                result[group][name] = _summary(items)
        return result


def _iou(row: Row, fact: Row) -> float:
    """IoU of an accepted mask and the true mask; 0 if their sizes differ, because the truth is then wrong."""
    height, width = row["height"], row["width"]
    if (fact["height"], fact["width"]) != (height, width):
        return 0.0
    return rle.iou(row["rle"], fact["rle"], height, width)


def _summary(items: list[tuple[str, bool | None, float]]) -> dict[str, Any]:
    present = [item for item in items if item[1] is True]
    absent = [item for item in items if item[1] is False]
    accepted = [score for status, _, score in present if status == "accepted"]
    return {
        "queries": len(items),
        "present": len(present),
        "absent": len(absent),
        "unknown": len(items) - len(present) - len(absent),
        "iou": distribution(accepted),
        "mean_iou_present": _share(sum(accepted), len(present)),
        "accepted_present": _share(len(accepted), len(present)),
        "accepted_absent": _share(sum(status == "accepted" for status, _, _ in absent), len(absent)),
        "absent_outcomes": {name: sum(status == name for status, _, _ in absent) for name in OUTCOMES},
    }


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
