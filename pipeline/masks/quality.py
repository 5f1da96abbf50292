"""How good masks are where the truth is known: IoU against it, and what became of texts about absent things."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from model.teachers import rle
from pipeline.masks.gates import GATES
from pipeline.masks.shards import read_parts
from pipeline.masks.statistics import distribution
from pipeline.schemas import TRUTH

COLUMNS = ("sample_id", "turn", "query_kind", "status", "reason", "height", "width", "rle")
OUTCOMES = ("accepted", "rejected", "no_region", "error")


def outcome(status: str, reason: str | None) -> str:
    """What really happened to a row of MASKS, one of OUTCOMES: 'rejected' means that a gate stopped a teacher's mask.

    The table calls a row 'rejected' also if the teachers never saw it; its reason is then no gate, but an error.
    """
    return "error" if status == "rejected" and reason not in GATES else status


def iou_against_truth(masks: Path, truth: Path) -> dict[str, Any]:
    """Measure masks (folder with MASKS parts) against the truth (folder with TRUTH parts).

    Returns, for everything ('overall'), per query kind ('kinds') and per outcome ('statuses'):
        present / absent: queries whose object is / is not in the picture;
        iou: distribution over present queries with an accepted mask;
        mean_iou_present: mean over all present queries, 0 where no mask was accepted;
        accepted_present, accepted_absent: shares of present and absent queries with an accepted mask (the second is a
        mistake: the object is not there);
        absent_outcomes: absent queries by outcome: only 'no_region' is the teachers' own right answer;
        unknown: queries that the truth does not speak of.
    """
    known = {(row["sample_id"], row["turn"]): row for row in read_parts(truth, TRUTH).to_pylist()}
    groups: dict[tuple[str, str], list[tuple[str, bool | None, float]]] = defaultdict(list)
    for row in _rows(masks):
        fact = known.get((row["sample_id"], row["turn"]))
        present = None if fact is None else bool(fact["present"])
        score = _iou(row, fact) if fact is not None and present and row["status"] == "accepted" else 0.0
        status = outcome(row["status"], row["reason"])
        item = (status, present, score)
        for key in (("overall", ""), ("kinds", row["query_kind"]), ("statuses", status)):
            groups[key].append(item)
    result: dict[str, Any] = {"overall": _summary(groups[("overall", "")]), "kinds": {}, "statuses": {}}
    for (group, name), items in sorted(groups.items()):
        if name:
            result[group][name] = _summary(items)
    return result


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("part-*.parquet")):
        yield from pq.read_table(file, columns=list(COLUMNS)).to_pylist()


def _iou(row: dict[str, Any], fact: dict[str, Any]) -> float:
    """IoU of an accepted mask and the truth; 0 if they are not of one frame, which no correct truth is."""
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
