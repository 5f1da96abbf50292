"""Gates: properties that hold for any evidence."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.teachers import rle
from pipeline.masks.config import MaskGates
from pipeline.masks.gates import GATES, PER_INSTANCE, QUERY_COLUMNS, gate, rejected_alone
from pipeline.schemas import MASKS

HEIGHT, WIDTH = 12, 10
UNIT = st.floats(0, 1)
MAYBE = st.none() | UNIT  # a teacher may not have a figure


@st.composite
def instances(draw: st.DrawFn) -> dict[str, Any]:
    mask = np.random.default_rng(draw(st.integers(0, 1000))).random((HEIGHT, WIDTH)) < draw(UNIT)
    counts = rle.encode(mask)
    return {
        "rle": counts,
        "area": int(mask.sum()),
        "sam_iou": draw(MAYBE),
        "agreement_iou": draw(MAYBE),
        "stability": draw(MAYBE),
    }


@st.composite
def evidence(draw: st.DrawFn) -> dict[str, Any]:
    status = draw(st.sampled_from(["ok", "ok", "ok", "no_region", "error"]))
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
        "polygon_score": None if status == "error" else draw(MAYBE),
        "ended": draw(st.sampled_from([True, True, False, None])),
        "instances": draw(st.lists(instances(), min_size=1, max_size=4)) if status == "ok" else [],
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
            min_stability=draw(UNIT),
            require_ended=draw(st.booleans()),
            min_area=low,
            max_area=high if high > low else min(1.0, low + 0.1) if low < 1 else 1.0,
        )
        if low < 1
        else MaskGates()
    )


def passes(instance: dict[str, Any], limits: MaskGates) -> bool:
    known = {gate: instance[name] for gate, name in PER_INSTANCE.items() if instance[name] is not None}
    return all(value >= getattr(limits, gate) for gate, value in known.items())


@given(evidence(), gates())
def test_every_row_has_one_outcome_and_a_mask_only_if_accepted(row: dict[str, Any], limits: MaskGates) -> None:
    result = gate(row, limits)
    assert list(result) == MASKS.names
    if row["status"] == "error":
        assert (result["status"], result["reason"]) == ("error", "RuntimeError: x")
    elif row["status"] == "no_region":
        assert (result["status"], result["reason"]) == ("no_region", "")
    elif result["status"] == "low_quality":
        assert result["reason"] in GATES
    else:
        assert (result["status"], result["reason"]) == ("ok", "")
    assert (result["rle"] is not None) == (result["area"] is not None) == (result["status"] == "ok")


@given(evidence(), gates())
def test_an_accepted_mask_is_the_union_of_exactly_the_instances_that_pass(
    row: dict[str, Any], limits: MaskGates
) -> None:
    result = gate(row, limits)
    if result["status"] != "ok":
        return
    passing = [i for i in row["instances"] if passes(i, limits)]
    union = np.logical_or.reduce([rle.decode(i["rle"], HEIGHT, WIDTH) for i in passing])
    assert np.array_equal(rle.decode(result["rle"], HEIGHT, WIDTH), union)
    assert result["area"] == union.sum() > 0
    assert limits.min_area <= union.mean() <= limits.max_area
    assert row["polygon_score"] is None or row["polygon_score"] >= limits.min_polygon_score
    assert row["ended"] is not False or not limits.require_ended
    for name in PER_INSTANCE.values():
        assert result[name] == min((i[name] for i in passing if i[name] is not None), default=None)


@given(evidence(), gates(), st.sampled_from([*PER_INSTANCE, "min_polygon_score", "min_area"]))
def test_opening_a_gate_never_rejects_an_accepted_row(row: dict[str, Any], limits: MaskGates, name: str) -> None:
    opened = limits.model_copy(update={name: 0.0, "max_area": 1.0})
    before, after = gate(row, limits), gate(row, opened)
    if before["status"] == "ok":
        assert after["status"] == "ok"
        assert after["area"] >= before["area"]
    if before["reason"] == name and row["status"] == "ok":
        # An open gate rejects only empty masks, of the instances that pass the other gates.
        kept = [i for i in row["instances"] if passes(i, opened)]
        assert after["reason"] != name or not any(i["area"] for i in kept)


def test_the_reason_is_the_first_gate_that_rejects_the_last_instance() -> None:
    full = rle.encode(np.ones((HEIGHT, WIDTH), dtype=bool))
    base = {
        **dict.fromkeys(("sample_id", "turn", "query_kind", "char_start", "char_end", "image_sha256", "query")),
        "height": HEIGHT,
        "width": WIDTH,
        "status": "ok",
        "reason": "",
        "polygon_score": 0.5,
        "ended": True,
        "teacher": "t",
        "instances": [
            {"rle": full, "area": HEIGHT * WIDTH, "sam_iou": 0.9, "agreement_iou": 0.2, "stability": 0.7},
            {"rle": full, "area": HEIGHT * WIDTH, "sam_iou": 0.4, "agreement_iou": 0.8, "stability": None},
        ],
    }

    def reason(**limits: Any) -> str:
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
    cut = {**base, "ended": False}
    assert gate(cut, MaskGates())["reason"] == "require_ended"
    assert gate(cut, MaskGates(require_ended=False, min_sam_iou=0, min_agreement_iou=0, max_area=1))["status"] == "ok"
    assert gate(base, MaskGates())["sam_iou"] == pytest.approx(0.4)


OPEN = {"require_ended": False, "min_area": 0.0, "max_area": 1.0} | {
    name: 0.0 for name in GATES if name.startswith("min_")
}


@given(evidence(), gates())
def test_a_gate_rejects_alone_what_it_rejects_when_all_others_are_open(
    row: dict[str, Any], all_gates: MaskGates
) -> None:
    expected, tried = [], []
    for name in GATES:
        limits = OPEN | {name: getattr(all_gates, name)}
        if limits["min_area"] >= limits["max_area"]:
            continue  # MaskGates refuses these
        tried.append(name)
        found = gate(row, MaskGates(**limits))
        if found["status"] == "low_quality" and found["reason"] == name:
            expected.append(name)
    assert [name for name in rejected_alone(row, all_gates) if name in tried] == expected


@given(evidence(), gates())
def test_a_row_that_passes_all_gates_is_rejected_alone_by_max_area_only(
    row: dict[str, Any], all_gates: MaskGates
) -> None:
    """Other gates can take the instance that makes the union too large; then the rest passes."""
    if gate(row, all_gates)["status"] == "ok":
        assert set(rejected_alone(row, all_gates)) <= {"max_area"}


def test_another_gate_can_take_the_instance_that_is_too_large() -> None:
    small = np.zeros((HEIGHT, WIDTH), bool)
    small[:4, :4] = True
    figures = {"agreement_iou": None, "stability": None}
    row = {
        **dict.fromkeys(QUERY_COLUMNS),
        **{"height": HEIGHT, "width": WIDTH, "status": "ok", "polygon_score": None, "ended": None, "teacher": "t"},
        "instances": [
            {"rle": rle.encode(small), "sam_iou": 0.9, **figures},
            {"rle": rle.encode(np.ones((HEIGHT, WIDTH), bool)), "sam_iou": 0.1, **figures},
        ],
    }
    limits = MaskGates(min_sam_iou=0.5, max_area=0.5)
    assert gate(row, limits)["rle"] == rle.encode(small)
    assert rejected_alone(row, limits) == ["max_area"]
