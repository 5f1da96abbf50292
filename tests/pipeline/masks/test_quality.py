"""Masks compared with the truth, with expected values worked out by hand."""

from typing import Any

import numpy as np
import pytest

from model.teachers import rle
from pipeline.masks.quality import TruthComparison
from pipeline.masks.statistics import distribution, reason_name
from pipeline.schemas import MASKS


def square(side: int) -> str:
    mask = np.zeros((20, 20), dtype=bool)
    mask[:side, :side] = True
    return rle.encode(mask)


def test_present_and_absent_objects_are_counted_by_status() -> None:
    def mask(turn: int, status: str, counts: str | None, kind: str = "question", reason: str = "") -> dict[str, Any]:
        return {
            **dict.fromkeys(MASKS.names),
            "sample_id": "s",
            "turn": turn,
            "query_kind": kind,
            "height": 20,
            "width": 20,
            "status": status,
            "reason": reason,
            "rle": counts,
        }

    def fact(turn: int, counts: str | None) -> dict[str, Any]:
        return {
            "sample_id": "s",
            "turn": turn,
            "present": counts is not None,
            "height": 20,
            "width": 20,
            "rle": counts,
        }

    masks = [
        mask(0, "ok", square(10)),  # IoU 1
        mask(1, "ok", square(5)),  # of a square of 10: IoU 0.25
        mask(2, "low_quality", None, reason="min_area"),  # present, missed
        mask(3, "ok", square(4), "caption"),  # absent: a mistake
        mask(4, "no_region", None, "caption"),  # absent: right
        mask(5, "ok", square(3), "caption"),  # without truth
        mask(6, "low_quality", None, "caption", "max_area"),  # absent, and a gate rejected the teachers' mask
        mask(7, "error", None, "caption", "missing_image"),  # absent, and the teachers never saw the image
    ]
    truth = [fact(0, square(10)), fact(1, square(10)), fact(2, square(8)), fact(3, None), fact(4, None)]
    truth += [fact(6, None), fact(7, None)]
    comparison = TruthComparison(truth)
    for row in masks:
        comparison.add(row)
    found = comparison.summary()
    overall = found["overall"]
    assert [overall[k] for k in ("queries", "present", "absent", "unknown")] == [8, 3, 4, 1]
    assert overall["iou"]["mean"] == pytest.approx(0.625)
    assert overall["mean_iou_present"] == pytest.approx(1.25 / 3, abs=1e-6)
    assert overall["accepted_present"] == pytest.approx(2 / 3, abs=1e-6)
    assert overall["accepted_absent"] == 0.25
    assert overall["absent_outcomes"] == {"ok": 1, "low_quality": 1, "no_region": 1, "error": 1}
    assert found["statuses"]["error"]["queries"] == 1
    assert found["kinds"]["caption"]["accepted_present"] is None
    assert found["kinds"]["question"]["accepted_absent"] is None
    assert found["statuses"]["low_quality"]["mean_iou_present"] == 0


def test_distributions_and_reasons() -> None:
    assert distribution([]) == {"count": 0} == distribution([None])
    summary = distribution([0.0, 0.5, 1.0, None, 1.7])
    assert summary["count"] == 4
    assert sum(summary["histogram"]) == 4
    assert summary["quantiles"]["0.5"] == 0.75
    assert reason_name("image_changed: sha256 is x: y") == "image_changed"
    assert reason_name("min_area") == "min_area"
    assert reason_name("") == "unknown"
