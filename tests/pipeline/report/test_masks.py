"""Quality of masks compared with the truth, and the choice of masks that are shown."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.teachers import rle
from pipeline.masks.quality import TruthComparison
from pipeline.masks.statistics import EvidenceSummary
from pipeline.report.formatting import share
from pipeline.report.mask_pictures import pictures_of, rows_of
from pipeline.report.masks import MaskSection, grade, half_or_better, quality_words
from pipeline.report.sample import Row, Sample
from tests.pipeline.report.fixtures_artifacts import Fabric


def row(number: int, status: str, reason: str = "") -> Row:
    return {"sample_id": f"s{number}", "turn": 0, "query_kind": "caption", "status": status, "reason": reason}


def measured(rows: Iterable[tuple[str, bool | None]]) -> dict[str, Any]:
    """The statistics of masks (status, is the object there?) whose union is the whole truth."""
    full = rle.encode(np.ones((8, 8), bool))
    rows = list(rows)
    facts = [
        {"sample_id": str(i), "turn": 0, "present": present, "height": 8, "width": 8, "rle": full if present else None}
        for i, (_, present) in enumerate(rows)
        if present is not None
    ]
    comparison = TruthComparison(facts)
    for i, (status, _) in enumerate(rows):
        state = {"status": status, "reason": {"low_quality": "min_sam_iou", "error": "no file"}.get(status, "")}
        place = {"sample_id": str(i), "turn": 0, "query_kind": "caption", "height": 8, "width": 8}
        comparison.add({**place, **state, "rle": full if status == "ok" else None})
    found: dict[str, Any] = comparison.summary()["kinds"]["caption"]
    return found


def test_the_quality_is_what_the_masks_step_measured() -> None:
    found = measured([("ok", True), ("no_region", True), ("low_quality", True), ("error", True), ("ok", None)])
    iou = found["iou"]
    assert (iou["count"], iou["mean"], iou["quantiles"]["0.5"], half_or_better(iou)) == (1, 1.0, 1.0, 1.0)
    assert found["mean_iou_present"] == 0.25
    words = " Compared with the truth these masks are good: mean IoU 1.00, median 1.00 (n = 1)."
    assert quality_words(found) == words


def test_the_share_of_good_masks_is_the_upper_half_of_the_histogram() -> None:
    assert half_or_better({"count": 8, "histogram": [1, 1, 2, 4]}) == 0.75


def test_quality_of_nothing_says_nothing() -> None:
    found = measured([("ok", None)])
    assert (found["iou"], half_or_better(found["iou"]), quality_words(found)) == ({"count": 0}, None, "")


def test_a_teacher_without_answers_says_nothing_of_them() -> None:
    summary = EvidenceSummary()
    summary.add(
        {
            "query": "x",
            "status": "ok",
            "ended": None,
            "answer_tokens": None,
            "characters_cut": 0,
            "degenerate": 0,
            "polygon_score": None,
            "instances": [],
        }
    )
    section = MaskSection("pretrain", {"ok": 1}, {}, {}, {}, 0, False, [], evidence=summary.summary())
    assert not any("nswer" in name for name, _ in section.losses)
    assert section.figures == []


def test_only_a_missing_region_is_the_teachers_own_right_answer() -> None:
    statuses = ["no_region"] * 3 + ["low_quality"] * 4 + ["ok"] * 2 + ["error"]
    quality = {"caption": measured((s, False) for s in statuses)}
    words = MaskSection("pretrain", {"ok": 2}, {}, {}, quality, 0, False, []).finding
    assert "Of 10 texts" in words
    assert "3 rightly got no region, 4 got a mask that a gate stopped, 2 got a wrong mask" in words
    assert "that passed the gates" in words
    assert "; 1 could not be asked (errors)" in words


def sample_of(rows: Iterable[Row], size: int = 48) -> Sample:
    made = Sample(size)
    for each in rows:
        made.add(each)
    return made


def test_examples_are_chosen_by_hash_and_show_every_reason() -> None:
    rows = [row(i, "ok") for i in range(50)]
    rows += [row(100 + i, "low_quality", reason="min_area" if i < 40 else "min_sam_iou") for i in range(41)]

    def chosen(given: list[Row]) -> list[Row]:
        return sample_of(given).choose({"ok": 5, "low_quality": 2, "no_region": 2})

    assert chosen(rows) == chosen(rows[::-1])
    assert [r["status"] for r in chosen(rows)] == ["ok"] * 5 + ["low_quality"] * 2
    assert {r["reason"] for r in chosen(rows) if r["status"] == "low_quality"} == {"min_area", "min_sam_iou"}
    assert [r["sample_id"] for r in chosen(rows)[:5]] != [f"s{i}" for i in range(5)]


@given(st.lists(st.sampled_from(["ok", "low_quality"]), max_size=60), st.integers(1, 9), st.randoms())
def test_the_rows_that_are_kept_are_the_first_of_all(statuses: list[str], number: int, luck: random.Random) -> None:
    rows = [row(i, status) for i, status in enumerate(statuses)]
    luck.shuffle(rows)
    few, wanted = sample_of(rows, number), {"ok": number, "low_quality": number}
    assert len(few.images()) <= 2 * number
    assert few.choose(wanted) == sample_of(rows, len(rows) + 1).choose(wanted)


def test_pictures_show_evidence_and_truth_where_these_are_known(tmp_path: Path) -> None:
    made = Fabric(tmp_path, scenes=12, unseen=2)
    steps = [
        s
        for s in made.plan()
        if s.ref.name == "pretrain" and s.step.kind in ("inventory", "subset", "segments", "masks", "pack")
    ]
    found = {s.step.kind: made.make(s) for s in steps}
    rows = list(rows_of(found["masks"]))
    assert [r["sample_id"] for r in rows] == [raw["sample_id"] for raw in made.mask_rows("pretrain")]
    assert [(r["status"], r["reason"]) for r in rows[:2]] == [("error", "missing_image")] * 2
    sample = sample_of(rows)
    pictures = pictures_of(sample, found["pack"], found["segments"], found["inventory"])
    assert {p.row["status"] for p in pictures} == {"ok", "low_quality", "no_region"}
    for p in pictures:
        assert ("not in the image" in p.facts) == (not p.knows_truth)
        assert ("before gates" in p.facts) == (p.row["status"] == "low_quality" and p.knows_truth)
        assert ("IoU with truth" in p.facts) == (p.row["status"] != "no_region" and p.knows_truth)
    alone = pictures_of(sample, found["pack"], None, None)
    assert [p.row for p in alone] == [p.row for p in pictures]
    assert not any(p.knows_truth or "IoU" in p.facts or "not in" in p.facts for p in alone)


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [(239, 240, "99.6"), (1, 240, "0.4"), (240, 240, "100"), (0, 240, "0"), (1, 100_000, "0.1"), (1, 3, "33")],
)
def test_a_share_is_not_rounded_to_all_or_nothing(part: int, whole: int, expected: str) -> None:
    assert share(part, whole) == f"{expected}\u202f%"
    assert share(part, 0) == "\u2013"


@pytest.mark.parametrize(
    ("iou", "word"), [(0.95, "good"), (0.75, "good"), (0.6, "usable"), (0.3, "poor"), (0.1, "bad"), (0.0, "bad")]
)
def test_grades_are_plain_words(iou: float, word: str) -> None:
    assert grade(iou) == word
