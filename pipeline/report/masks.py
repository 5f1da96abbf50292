"""What the teachers did, per data set: counts by status and reason, and their masks beside the known truth."""

import hashlib
import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from model.teachers import rle
from pipeline.artifacts.store import Artifact
from pipeline.report.collect import Run, read_rows

STATUSES = ("accepted", "rejected", "no_region")
KIND_NAMES = {"caption": "caption", "question": "question", "question_and_answer": "question and answer"}
_COLUMNS = ["sample_id", "turn", "query_kind", "query", "status", "reason", "rle", "area", "height", "width"]
_SCORES = ["polygon_score", "sam_iou", "agreement_iou"]
Key = tuple[str, int, str]  # sample_id, turn, query_kind


@dataclass(frozen=True)
class Row:
    """One query with what came of it. Masks are COCO counts in the full image's frame."""

    key: Key
    query: str
    status: str
    reason: str
    size: tuple[int, int]  # height, width
    rle: str | None
    evidence: tuple[str, ...]  # the teachers' masks before the gates
    scores: dict[str, float]
    truth: str | None
    present: bool | None  # None: the source does not know what the text is about
    iou: float | None  # of the published mask and the truth; 0 where none was published
    raw_iou: float | None  # of the union of the teachers' masks before the gates and the truth


@dataclass(frozen=True)
class Quality:
    """The masks of one kind of text beside the truth."""

    kind: str
    asked: int  # texts about something that is there
    accepted: int  # of those
    ious: tuple[float, ...]  # of the accepted
    raw_ious: tuple[float, ...]  # of all asked, before the gates; 0 where nothing was found
    absent: dict[str, int]  # texts about something absent, by status
    incomparable: int  # truth and mask have different sizes

    @property
    def mean(self) -> float | None:
        """Mean IoU of the accepted masks."""
        return statistics.fmean(self.ious) if self.ious else None

    @property
    def median(self) -> float | None:
        """Median IoU of the accepted masks."""
        return statistics.median(self.ious) if self.ious else None

    @property
    def half(self) -> float | None:
        """Share of the accepted masks with IoU of at least 0.5."""
        return sum(i >= 0.5 for i in self.ious) / len(self.ious) if self.ious else None

    @property
    def raw_mean(self) -> float | None:
        """Mean IoU over all texts that have an object, before the gates."""
        return statistics.fmean(self.raw_ious) if self.raw_ious else None

    @property
    def absent_total(self) -> int:
        """Texts about something that is not there."""
        return sum(self.absent.values())

    @property
    def abstained(self) -> float | None:
        """Share of the texts about absent things that got no mask."""
        return 1 - self.absent.get("accepted", 0) / self.absent_total if self.absent_total else None

    def histogram(self, bins: int = 10) -> list[int]:
        """Number of accepted masks by IoU, in `bins` equal bins over [0, 1]."""
        counts = [0] * bins
        for value in self.ious:
            counts[min(int(value * bins), bins - 1)] += 1
        return counts


@dataclass(frozen=True)
class MaskSet:
    """The masks of one data set."""

    name: str
    key: str
    statuses: dict[str, int]
    reasons: dict[str, dict[str, int]]  # status -> reason -> number
    gates: dict[str, float]
    teacher: dict[str, Any]
    quality: tuple[Quality, ...]
    rows: tuple[Row, ...] = field(repr=False)

    @property
    def total(self) -> int:
        """Queries."""
        return sum(self.statuses.values())


def mask_sets(run: Run) -> list[MaskSet]:
    """The masks of every data set of the run, in order."""
    return [_mask_set(run, view.key) for view in run.of_kind("masks")]


def _mask_set(run: Run, key: str) -> MaskSet:
    view = run.get(key)
    assert view is not None
    name = view.artifact.ref.name
    segments, inventory = run.get(f"segment-{name}"), run.get(f"inventory-{name}")
    truth = _truth(inventory.artifact) if inventory else {}
    evidence = _evidence(segments.artifact) if segments else {}
    rows = []
    for raw in read_rows(view.artifact, "part-", _COLUMNS + _SCORES):
        identity = (raw["sample_id"], raw["turn"], raw["query_kind"])
        rows.append(_row(raw, evidence.get(identity, ()), truth.get(identity[:2])))
    reasons: dict[str, Counter[str]] = {}
    for row in rows:
        reasons.setdefault(row.status, Counter())[row.reason or ""] += 1
    statuses = Counter(row.status for row in rows)
    known = [*STATUSES, *sorted(set(statuses) - set(STATUSES))]
    kinds = sorted({row.key[2] for row in rows})
    qualities = [quality(kind, [r for r in rows if r.key[2] == kind]) for kind in kinds]
    return MaskSet(
        name=name,
        key=key,
        statuses={status: statuses[status] for status in known},
        reasons={status: dict(sorted(c.items(), key=lambda i: (-i[1], i[0]))) for status, c in sorted(reasons.items())},
        gates=dict(view.params.get("gates", {})),
        teacher=dict(segments.params.get("teacher", {})) if segments else {},
        quality=tuple(q for q in qualities if q.asked or q.absent_total),
        rows=tuple(rows),
    )


def quality(kind: str, rows: list[Row]) -> Quality:
    """Compare the rows of one kind of text with the truth; rows without truth are left out."""
    present = [r for r in rows if r.present]
    measured = [r for r in present if r.iou is not None]
    return Quality(
        kind=kind,
        asked=len(present),
        accepted=sum(r.status == "accepted" for r in present),
        ious=tuple(r.iou for r in measured if r.status == "accepted" and r.iou is not None),
        raw_ious=tuple(r.raw_iou for r in measured if r.raw_iou is not None),
        absent=dict(Counter(r.status for r in rows if r.present is False)),
        incomparable=len(present) - len(measured),
    )


def examples(masks: MaskSet, wanted: dict[str, int], among: set[Key] | None = None) -> list[Row]:
    """Rows to show, by status: taken in the order of a hash of their keys, so nobody chose the pretty ones.

    Rejected rows take turns through their reasons, so that each reason is seen. `among`: only rows with these keys.
    """
    rows = masks.rows if among is None else [r for r in masks.rows if r.key in among]
    ordered = sorted(rows, key=lambda r: hashlib.sha256("\0".join(map(str, r.key)).encode()).digest())
    chosen: list[Row] = []
    for status, number in wanted.items():
        queues: dict[str, list[Row]] = {}
        for row in ordered:
            if row.status == status:
                queues.setdefault(row.reason if status == "rejected" else "", []).append(row)
        taken: list[Row] = []
        while len(taken) < number and any(queues.values()):
            taken += [queue.pop(0) for _, queue in sorted(queues.items()) if queue]
        chosen += taken[:number]
    return chosen


def _row(raw: dict[str, Any], evidence: tuple[str, ...], truth: tuple[bool, int, int, str | None] | None) -> Row:
    size = (raw["height"], raw["width"])
    present, target, iou, raw_iou = None, None, None, None
    if truth is not None:
        present, target = truth[0], truth[3]
        if present and target and truth[1:3] == size:
            height, width = size
            # No mask counts as 0: a teacher that stays silent must not look better than one that tries.
            iou = rle.iou(raw["rle"], target, height, width) if raw["rle"] else 0.0
            raw_iou = rle.iou(rle.union(evidence, height, width), target, height, width) if evidence else 0.0
    return Row(
        key=(raw["sample_id"], raw["turn"], raw["query_kind"]),
        query=raw["query"],
        status=raw["status"],
        reason=raw["reason"] or "",
        size=size,
        rle=raw["rle"],
        evidence=evidence,
        scores={name: raw[name] for name in _SCORES if raw[name] is not None},
        truth=target,
        present=present,
        iou=iou,
        raw_iou=raw_iou,
    )


def _truth(inventory: Artifact) -> dict[tuple[str, int], tuple[bool, int, int, str | None]]:
    return {
        (row["sample_id"], row["turn"]): (row["present"], row["height"], row["width"], row["rle"])
        for row in read_rows(inventory, "truth/")
    }


def _evidence(segments: Artifact) -> dict[Key, tuple[str, ...]]:
    rows = read_rows(segments, "part-", ["sample_id", "turn", "query_kind", "instances"])
    return {
        (row["sample_id"], row["turn"], row["query_kind"]): tuple(i["rle"] for i in row["instances"] or () if i["rle"])
        for row in rows
    }
