"""What the teachers did, per data set: counts by status and reason, and their masks beside the known truth."""

import hashlib
import heapq
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.report.collect import Run
from pipeline.report.mask_rows import Key, Row, rows_of

STATUSES = ("accepted", "rejected", "no_region")
KIND_NAMES = {"caption": "caption", "question": "question", "question_and_answer": "question and answer"}
KEPT = 48  # rows of each status and reason that may become pictures: not every image is at hand


@dataclass
class Quality:
    """The masks of one kind of text beside the truth."""

    kind: str
    asked: int = 0  # texts about something that is there
    accepted: int = 0  # of those
    errors: int = 0  # of those: the teachers never saw them
    incomparable: int = 0  # of those: truth and mask have different sizes
    ious: list[float] = field(default_factory=list)  # of the accepted
    raw_ious: list[float] = field(default_factory=list)  # of all that the teachers saw, before the gates; 0 for no mask
    absent: Counter[str] = field(default_factory=Counter)  # texts about something absent, by status

    def add(self, row: Row) -> None:
        """Count a row; one without truth is left out."""
        if row.present is False:
            self.absent[row.status] += 1
        if not row.present:
            return
        self.asked += 1
        self.accepted += row.status == "accepted"
        if row.status == "error":
            self.errors += 1
        elif row.iou is None or row.raw_iou is None:
            self.incomparable += 1
        else:
            self.raw_ious.append(row.raw_iou)
            if row.status == "accepted":
                self.ious.append(row.iou)

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
        """Mean IoU over all texts that have an object and were seen, before the gates."""
        return statistics.fmean(self.raw_ious) if self.raw_ious else None

    @property
    def absent_total(self) -> int:
        """Texts about something that is not there."""
        return sum(self.absent.values())

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
    unknown: int  # rows that the truth does not speak of
    rows: tuple[Row, ...] = field(repr=False)  # some of each status and reason, to be shown

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
    evidence, truth = (v.artifact if v else None for v in (segments, inventory))
    reasons: dict[str, Counter[str]] = {}
    kinds: dict[str, Quality] = {}
    kept, unknown = Kept(), 0
    for row in rows_of(view.artifact, evidence, truth):
        reasons.setdefault(row.status, Counter())[row.reason] += 1
        kinds.setdefault(row.key[2], Quality(row.key[2])).add(row)
        kept.add(row)
        unknown += row.present is None
    statuses = {status: counts.total() for status, counts in sorted(reasons.items())}
    return MaskSet(
        name=name,
        key=key,
        statuses=dict.fromkeys(STATUSES, 0) | statuses,
        reasons={status: dict(sorted(c.items(), key=lambda i: (-i[1], i[0]))) for status, c in sorted(reasons.items())},
        gates=dict(view.params.get("gates", {})),
        teacher=dict(segments.params.get("teacher", {})) if segments else {},
        quality=tuple(q for _, q in sorted(kinds.items()) if q.asked or q.absent_total),
        unknown=unknown,
        rows=kept.rows,
    )


class Kept:
    """Of each status and reason the first rows in the order of a hash of their keys: nobody chose the pretty ones."""

    def __init__(self, number: int = KEPT) -> None:
        self._number = number
        self._heaps: dict[tuple[str, str], list[tuple[int, Key, Row]]] = {}

    def add(self, row: Row) -> None:
        """Keep the row if it is among the first."""
        heap = self._heaps.setdefault((row.status, row.reason), [])
        item = (-_order(row), row.key, row)
        if len(heap) < self._number:
            heapq.heappush(heap, item)
        else:
            heapq.heappushpop(heap, item)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows that were kept, in that order."""
        return tuple(sorted((row for heap in self._heaps.values() for _, _, row in heap), key=_order))


def _order(row: Row) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(map(str, row.key)).encode()).digest())


def examples(rows: Iterable[Row], wanted: dict[str, int], among: set[Key] | None = None) -> list[Row]:
    """Rows to show, by status, in the order of a hash of their keys.

    Rejected rows take turns through their reasons, so that each reason is seen. `among`: only rows with these keys.
    """
    ordered = sorted((r for r in rows if among is None or r.key in among), key=_order)
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
