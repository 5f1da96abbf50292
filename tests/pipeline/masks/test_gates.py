"""Gates: properties that hold for any evidence."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.teachers import rle
from pipeline.masks.config import MaskGates
from pipeline.masks.gates import GATES, gate
from pipeline.schemas import MASKS

HEIGHT, WIDTH = 12, 10
UNIT = st.floats(0, 1)


@st.composite
def instances(draw: st.DrawFn) -> dict[str, Any]:
    mask = np.random.default_rng(draw(st.integers(0, 1000))).random((HEIGHT, WIDTH)) < draw(UNIT)
    counts = rle.encode(mask)
    return {"rle": counts, "area": int(mask.sum()), "sam_iou": draw(UNIT), "agreement_iou": draw(UNIT)}


@st.composite
def evidence(draw: st.DrawFn) -> dict[str, Any]:
    status = draw(st.sampled_from(["segmented", "segmented", "segmented", "no_region", "error"]))
    return {
        "sample_id": "s",
        "turn": 0,
        "query_kind": "caption",
        "char_start": 0,
        "char_end": 4,
        "image_sha256": "00",
        "height": HEIGHT,
        "width": WIDTH,
        "query": "text",
        "status": status,
        "reason": "RuntimeError: x" if status == "error" else "",
        "polygon_score": None if status == "error" else draw(UNIT),
        "instances": draw(st.lists(instances(), min_size=1, max_size=4)) if status == "segmented" else [],
        "teacher": "t",
    }


@st.composite
def gates(draw: st.DrawFn) -> MaskGates:
    low, high = sorted((draw(UNIT), draw(UNIT)))
    return (
        MaskGates(
            min_polygon_score=draw(UNIT),
            min_sam_iou=draw(UNIT),
            min_agreement_iou=draw(UNIT),
            min_area=low,
            max_area=high if high > low else min(1.0, low + 0.1) if low < 1 else 1.0,
        )
        if low < 1
        else MaskGates()
    )


@given(evidence(), gates())
def test_every_row_has_one_outcome_and_a_mask_only_if_accepted(row: dict[str, Any], limits: MaskGates) -> None:
    result = gate(row, limits)
    assert list(result) == MASKS.names
    if row["status"] == "error":
        assert (result["status"], result["reason"]) == ("rejected", "RuntimeError: x")
    elif row["status"] == "no_region":
        assert (result["status"], result["reason"]) == ("no_region", "")
    elif result["status"] == "rejected":
        assert result["reason"] in GATES
    else:
        assert (result["status"], result["reason"]) == ("accepted", "")
    assert (result["rle"] is not None) == (result["area"] is not None) == (result["status"] == "accepted")


@given(evidence(), gates())
def test_an_accepted_mask_is_the_union_of_exactly_the_instances_that_pass(
    row: dict[str, Any], limits: MaskGates
) -> None:
    result = gate(row, limits)
    if result["status"] != "accepted":
        return
    passing = [
        i
        for i in row["instances"]
        if i["sam_iou"] >= limits.min_sam_iou and i["agreement_iou"] >= limits.min_agreement_iou
    ]
    union = np.logical_or.reduce([rle.decode(i["rle"], HEIGHT, WIDTH) for i in passing])
    assert np.array_equal(rle.decode(result["rle"], HEIGHT, WIDTH), union)
    assert result["area"] == union.sum() > 0
    assert limits.min_area <= union.mean() <= limits.max_area
    assert row["polygon_score"] >= limits.min_polygon_score
    assert result["sam_iou"] == min(i["sam_iou"] for i in passing)
    assert result["agreement_iou"] == min(i["agreement_iou"] for i in passing)


@given(evidence(), gates(), st.sampled_from(["min_polygon_score", "min_sam_iou", "min_agreement_iou", "min_area"]))
def test_opening_a_gate_never_rejects_an_accepted_row(row: dict[str, Any], limits: MaskGates, name: str) -> None:
    opened = limits.model_copy(update={name: 0.0, "max_area": 1.0})
    before, after = gate(row, limits), gate(row, opened)
    if before["status"] == "accepted":
        assert after["status"] == "accepted"
        assert after["area"] >= before["area"]
    if before["reason"] == name and row["status"] == "segmented":
        # An open gate rejects only empty masks, of the instances that pass the other gates.
        kept = [
            i
            for i in row["instances"]
            if i["sam_iou"] >= opened.min_sam_iou and i["agreement_iou"] >= opened.min_agreement_iou
        ]
        assert after["reason"] != name or not any(i["area"] for i in kept)


def test_the_reason_is_the_first_gate_that_rejects_the_last_instance() -> None:
    full = rle.encode(np.ones((HEIGHT, WIDTH), dtype=bool))
    base = {
        **dict.fromkeys(("sample_id", "turn", "query_kind", "char_start", "char_end", "image_sha256", "query")),
        "height": HEIGHT,
        "width": WIDTH,
        "status": "segmented",
        "reason": "",
        "polygon_score": 0.5,
        "teacher": "t",
        "instances": [
            {"rle": full, "area": HEIGHT * WIDTH, "sam_iou": 0.9, "agreement_iou": 0.2},
            {"rle": full, "area": HEIGHT * WIDTH, "sam_iou": 0.4, "agreement_iou": 0.8},
        ],
    }

    def reason(**limits: float) -> str:
        return str(
            gate(base, MaskGates(**{"min_sam_iou": 0, "min_agreement_iou": 0, "max_area": 1, **limits}))["reason"]
        )

    assert reason() == ""
    assert reason(min_polygon_score=0.6) == "min_polygon_score"
    assert reason(min_sam_iou=0.95) == "min_sam_iou"
    assert reason(min_sam_iou=0.5, min_agreement_iou=0.5) == "min_agreement_iou"
    assert reason(max_area=0.9) == "max_area"
    assert reason(min_area=0.99999) == ""
    assert reason(min_polygon_score=0.6, min_sam_iou=0.95) == "min_polygon_score"
    assert gate(base, MaskGates())["sam_iou"] == pytest.approx(0.4)
