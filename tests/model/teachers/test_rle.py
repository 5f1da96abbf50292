"""Run-length encoding: the laws that every mask of the project relies on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.teachers import rle

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
MASKS = SIZES.flatmap(lambda size: hnp.arrays(bool, size))
PAIRS = SIZES.flatmap(lambda size: st.tuples(hnp.arrays(bool, size), hnp.arrays(bool, size)))


@given(MASKS)
def test_round_trip_keeps_every_pixel_and_the_area(mask: np.ndarray) -> None:
    height, width = mask.shape
    counts = rle.encode(mask)
    assert isinstance(counts, str)
    assert counts.isascii()
    assert np.array_equal(rle.decode(counts, height, width), mask)
    assert rle.area(counts, height, width) == mask.sum()


@given(MASKS)
def test_boundaries_are_those_of_the_runs_of_ones(mask: np.ndarray) -> None:
    found = rle.boundaries(rle.encode(mask))
    flat = mask.T.reshape(-1).astype(int)  # one column after the other
    starts_and_ends = np.flatnonzero(np.diff(flat, prepend=0, append=0))
    if not mask[-1, -1]:  # an empty run at the end
        starts_and_ends = np.append(starts_and_ends, [mask.size, mask.size])
    assert found.tolist() == starts_and_ends.tolist()


def test_boundaries_of_large_masks_and_of_what_is_no_encoding() -> None:
    mask = np.zeros((3000, 2000), dtype=bool)
    mask[5:2900:7, 3:1990:5] = True
    assert (rle.boundaries(rle.encode(mask)).reshape(-1, 2) @ [-1, 1]).sum() == mask.sum()
    for counts in ("", "o"):
        with pytest.raises(ValueError, match="no run-length encoding"):
            rle.boundaries(counts)


@given(PAIRS)
def test_union_intersection_and_iou_are_those_of_the_pixels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    height, width = first.shape
    a, b = rle.encode(first), rle.encode(second)
    assert np.array_equal(rle.decode(rle.union([a, b], height, width), height, width), first | second)
    assert np.array_equal(rle.decode(rle.intersection([a, b], height, width), height, width), first & second)
    either = (first | second).sum()
    assert rle.iou(a, b, height, width) == pytest.approx((first & second).sum() / either if either else 0.0)
    assert rle.iou(a, b, height, width) == rle.iou(b, a, height, width)


@given(MASKS, st.randoms(use_true_random=False))
def test_encoding_does_not_depend_on_memory_layout(mask: np.ndarray, random: object) -> None:
    assert rle.encode(np.ascontiguousarray(mask)) == rle.encode(np.asfortranarray(mask)) == rle.encode(mask.copy()[:])
    assert rle.union([rle.encode(mask)] * 3, *mask.shape) == rle.encode(mask)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="two axes"):
        rle.encode(np.zeros((2, 2, 2), dtype=bool))
    with pytest.raises(ValueError, match="at least one mask"):
        rle.union([], 4, 4)
    with pytest.raises(ValueError, match="at least one polygon"):
        rle.from_polygons([], 4, 4)
    with pytest.raises(ValueError, match="three x, y pairs"):
        rle.from_polygons([[0, 0, 1, 1]], 4, 4)
    with pytest.raises(ValueError, match="finite"):
        rle.from_polygons([[0, 0, 1, 1, float("nan"), 2]], 4, 4)


def _inside(points: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Even-odd rule at pixel centres, and the distance of each centre to the outline."""
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    inside = np.zeros((height, width), dtype=bool)
    distance = np.full((height, width), np.inf)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        crosses = (ys < y0) != (ys < y1)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (xs < x0 + (ys - y0) * (x1 - x0) / (y1 - y0))
        length = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-12)
        t = np.clip(((xs - x0) * (x1 - x0) + (ys - y0) * (y1 - y0)) / length, 0, 1)
        distance = np.minimum(distance, np.hypot(xs - x0 - t * (x1 - x0), ys - y0 - t * (y1 - y0)))
    return inside, distance


@settings(deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(3, 9), st.integers(0, 2**32 - 1))
def test_polygons_fill_the_even_odd_inside(height: int, width: int, corners: int, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 1, size=(corners, 2)) * [width, height]
    mask = rle.decode(rle.from_polygons([points.reshape(-1).tolist()], height, width), height, width)
    inside, distance = _inside(points, height, width)
    sure = distance > 1.0  # pycocotools draws the outline in fifths of a pixel
    assert np.array_equal(mask[sure], inside[sure])


@given(st.lists(st.floats(-1e4, 1e4), min_size=6, max_size=6))
def test_polygons_that_leave_the_frame_stay_in_it(numbers: list[float]) -> None:
    counts = rle.from_polygons([numbers], 20, 30)
    assert rle.decode(counts, 20, 30).shape == (20, 30)
    assert 0 <= rle.area(counts, 20, 30) <= 600
