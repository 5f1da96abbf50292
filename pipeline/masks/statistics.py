"""Summaries of evidence and masks for manifests and the report: few numbers, no rows."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Row = Mapping[str, Any]
QUERY_FIGURES = ("polygon_score",)
INSTANCE_FIGURES = ("sam_iou", "agreement_iou", "stability", "area_fraction")
"""Columns of EVIDENCE, and of its instances, with values from 0 to 1."""
SUMMARY_COLUMNS = (
    *("query", "status", "ended", "answer_tokens", "characters_cut", "degenerate"),
    *QUERY_FIGURES,
    *(f"instances.list.element.{name}" for name in INSTANCE_FIGURES),
)
"""The columns of EVIDENCE that `EvidenceSummary` needs."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 20  # of a histogram of values from 0 to 1


def distribution(values: Iterable[float | None]) -> dict[str, Any]:
    """Count, mean, quantiles and histogram (BINS equal bins over 0..1) of the values that are not None.

    Values outside 0..1 are counted in the outer bins.
    """
    there = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(there):
        return {"count": 0}
    counts, _ = np.histogram(np.clip(there, 0, 1), bins=BINS, range=(0, 1))
    return {
        "count": len(there),
        "mean": round(float(there.mean()), 6),
        "quantiles": {str(q): round(float(np.quantile(there, q)), 6) for q in QUANTILES},
        "histogram": counts.tolist(),
    }


def spread(values: Iterable[float | None]) -> dict[str, Any]:
    """Count, mean, quantiles and maximum of the values that are not None, of any size; no histogram."""
    there = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(there):
        return {"count": 0}
    quantiles = {str(q): round(float(np.quantile(there, q)), 6) for q in QUANTILES}
    return {
        "count": len(there),
        "mean": round(float(there.mean()), 6),
        "quantiles": quantiles,
        "max": round(float(there.max()), 6),
    }


class EvidenceSummary:
    """Summarises evidence (EVIDENCE), row by row: distributions of its figures, and what was lost on the way."""

    def __init__(self) -> None:
        self._status: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._figures: dict[str, list[float | None]] = {name: [] for name in (*QUERY_FIGURES, *INSTANCE_FIGURES)}
        self._tokens: list[float | None] = []
        self._cut: list[int] = []
        self._degenerate: list[int] = []
        self._empty = self._instances = 0

    def add(self, row: Row) -> None:
        """Add a row of EVIDENCE; it needs SUMMARY_COLUMNS only."""
        self._status[row["status"]] += 1
        self._ended["unknown" if row["ended"] is None else "ended" if row["ended"] else "cut_off"] += 1
        self._tokens.append(row["answer_tokens"])
        self._cut.append(row["characters_cut"] or 0)
        self._degenerate.append(row["degenerate"] or 0)
        self._empty += not (row["query"] or "").strip()
        for name in QUERY_FIGURES:
            self._figures[name].append(row[name])
        for instance in row["instances"] or ():
            self._instances += 1
            for name in INSTANCE_FIGURES:
                self._figures[name].append(instance[name])

    @property
    def statuses(self) -> Counter[str]:
        """Rows by status."""
        return self._status

    def summary(self) -> dict[str, Any]:
        """The summary of all rows.

        status: rows by status;
        instances: number of regions with a mask;
        answers: rows whose answer ended, was cut off by the token budget, or is of a teacher that has no answer, and
        the share of ended ones;
        answer_tokens: `spread` of the tokens of an answer;
        characters_cut: rows whose text was too long, and the characters that were not sent;
        degenerate: regions without an area, which were dropped, and the rows that had some;
        empty_queries: rows without a text;
        one distribution per figure of a query or an instance.
        """
        known = self._ended["ended"] + self._ended["cut_off"]
        return {
            "status": dict(sorted(self._status.items())),
            "instances": self._instances,
            "answers": {
                **{name: self._ended[name] for name in ("ended", "cut_off", "unknown")},
                "ended_share": round(self._ended["ended"] / known, 6) if known else None,
            },
            "answer_tokens": spread(self._tokens),
            "characters_cut": {"rows": sum(map(bool, self._cut)), "characters": sum(self._cut)},
            "degenerate": {"rows": sum(map(bool, self._degenerate)), "regions": sum(self._degenerate)},
            "empty_queries": self._empty,
            **{name: distribution(values) for name, values in self._figures.items()},
        }


def reason_name(reason: str) -> str:
    """The name that a reason is counted by: its text before the first colon."""
    return reason.split(":", 1)[0].strip() or "unknown"
