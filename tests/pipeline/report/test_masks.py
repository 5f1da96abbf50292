"""Quality of masks beside the truth, and which of them are shown."""

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.teachers import rle
from pipeline.report.findings import mask_finding, quality_sentences
from pipeline.report.mask_rows import Row, rows_of
from pipeline.report.masks import Kept, MaskSet, Quality, examples
from pipeline.report.overlays import ACCEPTED, LONGEST, REFUSED, overlay
from pipeline.report.page import share
from tests.pipeline.report.fabric import Fabric
from tests.pipeline.report.pictures import as_array, jpeg_of


def row(
    number: int,
    status: str,
    *,
    iou: float | None = None,
    present: bool | None = True,
    reason: str = "",
    kind: str = "caption",
) -> Row:
    return Row(
        key=(f"s{number}", 0, kind),
        query="a thing",
        status=status,
        reason=reason,
        size=(8, 8),
        rle=None,
        evidence=(),
        scores={},
        truth=None,
        present=present,
        iou=iou,
        raw_iou=iou,
    )


def quality(rows: Iterable[Row]) -> Quality:
    made = Quality("caption")
    for each in rows:
        made.add(each)
    return made


def test_quality_counts_silence_as_zero_only_before_the_gates() -> None:
    found = quality(
        [
            row(1, "accepted", iou=0.8),
            row(2, "accepted", iou=0.4),
            row(3, "rejected", iou=0.0),
            row(4, "no_region", iou=0.0),
            row(5, "no_region", present=False),
            row(6, "accepted", present=False),
            row(7, "accepted", present=None),
            row(8, "accepted", present=True, iou=None),
            row(9, "error", present=True, iou=None),
        ],
    )
    assert (found.asked, found.accepted, found.incomparable, found.errors) == (6, 3, 1, 1)
    assert found.mean == pytest.approx(0.6)
    assert found.median == pytest.approx(0.6)
    assert found.half == pytest.approx(0.5)
    assert found.raw_mean == pytest.approx(0.3)
    assert (found.absent_total, found.absent) == (2, {"no_region": 1, "accepted": 1})


def test_quality_of_nothing_says_nothing() -> None:
    found = quality([row(1, "accepted", present=None)])
    assert (found.asked, found.mean, found.raw_mean, found.absent_total) == (0, None, None, 0)


def test_only_a_missing_region_is_the_teachers_own_right_answer() -> None:
    statuses = ["no_region"] * 3 + ["rejected"] * 4 + ["accepted"] * 2 + ["error"]
    found = quality(row(i, status, present=False) for i, status in enumerate(statuses))
    masks = MaskSet("pretrain", "masks-pretrain", {"accepted": 2}, {}, {}, {}, (found,), 0, ())
    for words in (mask_finding(masks), quality_sentences(masks, foreign=False)[0]):
        assert "Of 10 texts" in words
        assert "3 rightly got no region, 4 got a mask that a gate stopped, 2 got a wrong mask" in words
        assert "that came through" in words
        assert "; 1 could not be asked (errors)" in words


def test_the_histogram_holds_every_accepted_mask() -> None:
    assert Quality("caption", ious=[0.0, 0.05, 0.999, 1.0]).histogram() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]


def test_examples_are_chosen_by_hash_and_show_every_reason() -> None:
    rows = [row(i, "accepted") for i in range(50)]
    rows += [row(100 + i, "rejected", reason="min_area" if i < 40 else "min_sam_iou") for i in range(41)]

    def chosen(given: list[Row]) -> list[Row]:
        return examples(given, {"accepted": 5, "rejected": 2, "no_region": 2})

    assert chosen(rows) == chosen(rows[::-1])
    assert [r.status for r in chosen(rows)] == ["accepted"] * 5 + ["rejected"] * 2
    assert {r.reason for r in chosen(rows) if r.status == "rejected"} == {"min_area", "min_sam_iou"}
    assert [r.key[0] for r in chosen(rows)[:5]] != [f"s{i}" for i in range(5)]


@given(st.lists(st.sampled_from(["accepted", "rejected"]), max_size=60), st.integers(1, 9), st.randoms())
def test_the_rows_that_are_kept_are_the_first_of_all(statuses: list[str], number: int, luck: random.Random) -> None:
    rows = [row(i, status) for i, status in enumerate(statuses)]
    luck.shuffle(rows)
    kept = Kept(number)
    for each in rows:
        kept.add(each)
    assert len(kept.rows) <= 2 * number
    wanted = {"accepted": number, "rejected": number}
    assert examples(kept.rows, wanted) == examples(rows, wanted)


def test_rows_meet_their_evidence_and_truth_and_nothing_else_is_read(tmp_path: Path) -> None:
    made = Fabric(tmp_path, scenes=8, unseen=2)
    steps = [s for s in made.plan().until("masks") if s.ref.name == "pretrain"]
    found = {s.step.kind: made.make(s) for s in steps}
    rows = list(rows_of(found["masks"], found["segments"], found["inventory"]))
    assert [r.key[0] for r in rows] == [raw["sample_id"] for raw in made.mask_rows("pretrain")]
    assert [(r.status, r.reason) for r in rows[:2]] == [("error", "missing_image")] * 2
    assert all(r.iou is None and not r.evidence for r in rows[:2])
    seen = rows[2:]
    assert all(r.present is not None for r in seen)
    assert {r.rle for r in seen if r.status == "accepted"} == {r.evidence[0] for r in seen if r.status == "accepted"}
    assert all(r.iou == r.raw_iou for r in seen if r.status == "accepted" and r.present)
    assert all(r.evidence and r.iou in (0.0, None) for r in seen if r.status == "rejected")
    alone = list(rows_of(found["masks"], None, None))
    assert [(r.key, r.status) for r in alone] == [(r.key, r.status) for r in rows]
    assert all(r.present is None and r.evidence == () for r in alone)


def mask(height: int, width: int, *, left: bool) -> str:
    pixels = np.zeros((height, width), bool)
    pixels[:, : width // 2 if left else width] = left
    return rle.encode(pixels)


def test_what_lies_outside_the_mask_is_dimmed_and_the_rest_is_not() -> None:
    picture = Image.new("RGB", (60, 40), (200, 120, 40))
    plain = as_array(overlay(jpeg_of(picture), (40, 60), None, (), None))
    shown = as_array(overlay(jpeg_of(picture), (40, 60), mask(40, 60, left=True), (), None))
    assert max(shown.shape[:2]) == LONGEST
    height, width = shown.shape[:2]
    inside, outside = (height // 2, width // 4), (height // 2, 3 * width // 4)
    assert np.abs(shown[inside].astype(int) - plain[inside]).max() < 16
    assert shown[outside].max() < 0.75 * plain[outside].max()


@pytest.mark.parametrize(("published", "colour"), [(True, ACCEPTED), (False, REFUSED)])
def test_published_and_refused_masks_have_their_own_outline(published: bool, colour: tuple[int, int, int]) -> None:
    picture, shape = Image.new("RGB", (60, 40), (90, 90, 90)), mask(40, 60, left=True)
    uri = overlay(jpeg_of(picture), (40, 60), shape if published else None, (shape,), None)
    shown = as_array(uri)
    edge = shown[shown.shape[0] // 2, shown.shape[1] // 2 - 2].astype(int)
    assert np.abs(edge - np.array(colour)).max() < 70


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [(239, 240, "99.6"), (1, 240, "0.4"), (240, 240, "100"), (0, 240, "0"), (1, 100_000, "0.1"), (1, 3, "33")],
)
def test_a_share_is_not_rounded_to_all_or_nothing(part: int, whole: int, expected: str) -> None:
    assert share(part, whole) == f"{expected}\u202f%"
    assert share(part, 0) == "\u2013"
