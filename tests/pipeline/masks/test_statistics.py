"""The summary of evidence, with expected values worked out by hand."""

from typing import Any

from pipeline.masks.statistics import EvidenceSummary, spread


def row(**changes: Any) -> dict[str, Any]:
    return {
        "query": "A red square.",
        "status": "ok",
        "ended": True,
        "answer_tokens": 10,
        "characters_cut": 0,
        "degenerate": 0,
        "polygon_score": 0.9,
        "instances": [{"sam_iou": 0.8, "agreement_iou": 0.7, "stability": None, "area_fraction": 0.1}],
        **changes,
    }


def test_every_column_of_the_evidence_is_summarised() -> None:
    summary = EvidenceSummary()
    rows = [
        row(),
        row(ended=False, answer_tokens=64, characters_cut=30),
        row(ended=None, answer_tokens=None, polygon_score=None, characters_cut=12),
        row(status="no_region", instances=[], degenerate=2, query="  "),
        row(status="error", instances=None, ended=None, answer_tokens=None, polygon_score=None, degenerate=None),
    ]
    for each in rows:
        summary.add(each)
    found = summary.summary()
    assert found["status"] == {"error": 1, "no_region": 1, "ok": 3}
    assert found["instances"] == 3
    assert found["answers"] == {"ended": 2, "cut_off": 1, "unknown": 2, "ended_share": 0.666667}
    assert found["answer_tokens"]["count"] == 3
    assert found["answer_tokens"]["max"] == 64
    assert found["characters_cut"] == {"rows": 2, "characters": 42}
    assert found["degenerate"] == {"rows": 1, "regions": 2}
    assert found["empty_queries"] == 1
    assert found["polygon_score"]["count"] == 3
    assert (found["sam_iou"]["mean"], found["stability"]) == (0.8, {"count": 0})
    assert found["area_fraction"]["count"] == 3


def test_a_summary_of_nothing_says_so() -> None:
    found = EvidenceSummary().summary()
    assert found["instances"] == 0
    assert found["answers"]["ended_share"] is None
    assert spread([]) == spread([None]) == found["answer_tokens"] == {"count": 0}
