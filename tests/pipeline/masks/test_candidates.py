"""Candidates and their judgement are the gates' own, on any evidence."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.teachers import rle
from pipeline.masks.candidates import MOST, candidates_of, is_held_out
from pipeline.masks.config import MaskGates
from pipeline.masks.gates import gate
from pipeline.masks.price import SEARCHED, judge
from pipeline.masks.quality import iou_with
from tests.pipeline.masks.test_gates import HEIGHT, WIDTH, evidence, gates


def fact(present: bool, seed: int = 3) -> dict[str, Any]:
    mask = np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.5
    return {"present": present, "height": HEIGHT, "width": WIDTH, "rle": rle.encode(mask) if present else None}


@given(evidence(), gates(), st.booleans(), st.floats(0.01, 1))
def test_a_setting_accepts_what_the_gates_accept_with_the_same_iou(
    row: dict[str, Any], setting: MaskGates, present: bool, level: float
) -> None:
    known = fact(present)
    found = candidates_of([(row, known)])
    published = gate(row, setting)
    if row["status"] != "ok":
        assert len(found) == 0
        return
    accepted, right = judge(found, setting, {name: getattr(setting, name) for name in SEARCHED}, level)
    assert accepted.tolist() == [published["status"] == "ok"]
    if published["status"] == "ok":
        assert right.tolist() == [iou_with(known, published["rle"], HEIGHT, WIDTH) >= level]


def test_rows_without_truth_or_region_are_no_candidates() -> None:
    base = {"sample_id": "s", "status": "ok", "polygon_score": None, "ended": None, "height": HEIGHT, "width": WIDTH}
    assert len(candidates_of([({**base, "instances": []}, fact(True)), ({**base, "instances": [{}]}, None)])) == 0


def test_of_many_instances_the_smallest_count_as_one() -> None:
    def square(side: int) -> dict[str, Any]:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[:side, :side] = True
        figure = side / 10
        return {"rle": rle.encode(mask), "area": side * side} | dict.fromkeys(
            ("sam_iou", "agreement_iou", "stability"), figure
        )

    row = {"image_sha256": "i", "status": "ok", "polygon_score": 0.5, "ended": True, "height": HEIGHT, "width": WIDTH}
    found = candidates_of([({**row, "instances": [square(n) for n in range(1, 8)]}, fact(True))])
    assert sorted(found.figures["min_sam_iou"][0]) == pytest.approx([0.1, 0.5, 0.6, 0.7])
    assert found.area[0, -1] == pytest.approx(49 / (HEIGHT * WIDTH))
    assert found.area.shape == (1, 2**MOST)


def test_half_of_the_images_are_held_out() -> None:
    assert 0.45 < np.mean([is_held_out(f"{n:064x}") for n in range(2000)]) < 0.55


def test_samples_of_one_image_are_in_one_half() -> None:
    instance = {"rle": rle.encode(np.ones((HEIGHT, WIDTH), bool)), "area": HEIGHT * WIDTH}
    instance |= {"sam_iou": 0.5, "agreement_iou": 0.5, "stability": 0.5}
    row = {"turn": 0, "status": "ok", "polygon_score": 0.5, "ended": True, "height": HEIGHT, "width": WIDTH}
    rows = [
        {**row, "sample_id": f"s{image}-{sample}", "image_sha256": f"{image:064x}", "instances": [instance]}
        for image in range(20)
        for sample in range(8)
    ]
    found = candidates_of((row, fact(True)) for row in rows).held_out.reshape(20, 8)
    assert (found == found[:, :1]).all()
    assert 0 < found[:, 0].sum() < 20
