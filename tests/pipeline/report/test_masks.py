"""Quality of masks beside the truth, and which of them are shown."""

import numpy as np
import pytest
from PIL import Image

from model.teachers import rle
from pipeline.report.masks import Quality, Row, examples, quality
from pipeline.report.overlays import ACCEPTED, LONGEST, REFUSED, overlay
from pipeline.report.page import share
from tests.pipeline.report.pictures import as_array, jpeg_of


def row(number: int, status: str, *, iou: float | None = None, present: bool | None = True, reason: str = "") -> Row:
    return Row(
        key=(f"s{number}", 0, "caption"),
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


def test_quality_counts_silence_as_zero_only_before_the_gates() -> None:
    found = quality(
        "caption",
        [
            row(1, "accepted", iou=0.8),
            row(2, "accepted", iou=0.4),
            row(3, "rejected", iou=0.0),
            row(4, "no_region", iou=0.0),
            row(5, "no_region", present=False),
            row(6, "accepted", present=False),
            row(7, "accepted", present=None),
            row(8, "accepted", present=True, iou=None),
        ],
    )
    assert (found.asked, found.accepted, found.incomparable) == (5, 3, 1)
    assert found.mean == pytest.approx(0.6)
    assert found.median == pytest.approx(0.6)
    assert found.half == pytest.approx(0.5)
    assert found.raw_mean == pytest.approx(0.3)
    assert (found.absent_total, found.abstained) == (2, pytest.approx(0.5))


def test_quality_of_nothing_says_nothing() -> None:
    found = quality("caption", [row(1, "accepted", present=None)])
    assert (found.asked, found.mean, found.raw_mean, found.abstained) == (0, None, None, None)


def test_the_histogram_holds_every_accepted_mask() -> None:
    found = Quality("caption", 4, 4, (0.0, 0.05, 0.999, 1.0), (), {}, 0)
    assert found.histogram() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]


def test_examples_are_chosen_by_hash_and_show_every_reason() -> None:
    from pipeline.report.masks import MaskSet

    rows = [row(i, "accepted") for i in range(50)]
    rows += [row(100 + i, "rejected", reason="min_area" if i < 40 else "min_sam_iou") for i in range(41)]

    def chosen(given: list[Row]) -> list[Row]:
        made = MaskSet("pretrain", "masks-pretrain", {}, {}, {}, {}, (), tuple(given))
        return examples(made, {"accepted": 5, "rejected": 2, "no_region": 2})

    assert chosen(rows) == chosen(rows[::-1])
    assert [r.status for r in chosen(rows)] == ["accepted"] * 5 + ["rejected"] * 2
    assert {r.reason for r in chosen(rows) if r.status == "rejected"} == {"min_area", "min_sam_iou"}
    assert [r.key[0] for r in chosen(rows)[:5]] != [f"s{i}" for i in range(5)]


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
