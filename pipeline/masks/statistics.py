"""Summaries of evidence and masks for manifests and the report: few numbers, no rows."""

from collections.abc import Iterable
from typing import Any

import numpy as np

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


def reason_name(reason: str) -> str:
    """The name that a reason is counted by: its text before the first colon."""
    return reason.split(":", 1)[0].strip() or "unknown"
