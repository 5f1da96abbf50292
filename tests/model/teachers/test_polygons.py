"""Florence-2's location tokens as pixels, and what SAM is shown of a region."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.teachers import rle
from model.teachers.polygons import BINS, Region, has_area, inner_points, regions

SIZE = st.integers(1, 5000)
POLYGON = st.lists(st.integers(0, BINS - 1), min_size=0, max_size=20)


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


@given(SIZE, SIZE, st.lists(st.lists(POLYGON, max_size=3), max_size=3))
def test_every_polygon_of_every_instance_is_kept_or_counted(
    height: int, width: int, parsed: list[list[list[int]]]
) -> None:
    found, dropped = regions([(str(number), polygons) for number, polygons in enumerate(parsed)], height, width)
    assert sum(len(region.polygons) for region in found) + dropped == sum(map(len, parsed))
    assert [region.phrase for region in found] == sorted(region.phrase for region in found)
    for region in found:
        x0, y0, x1, y1 = region.box
        assert x1 - x0 > 0.5
        assert y1 - y0 > 0.5
        for polygon in region.polygons:
            xs, ys = np.reshape(polygon, (-1, 2)).T
            assert ((xs > 0) & (xs < width)).all()
            assert ((ys > 0) & (ys < height)).all()


@given(SIZE.filter(lambda n: n > 9), SIZE.filter(lambda n: n > 9), st.integers(0, 799), st.integers(0, 799))
def test_a_bin_is_its_middle_along_its_own_axis(height: int, width: int, x: int, y: int) -> None:
    ((region,), dropped) = regions([("", [square(x, y, 200)])], height, width)
    assert dropped == 0
    assert region.polygons[0][:2] == pytest.approx(((x + 0.5) * width / BINS, (y + 0.5) * height / BINS))


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.floats(0, 2 * np.pi),
    st.floats(0, 0.9),
    st.integers(0, 2**32 - 1),
)
def test_points_lines_and_slivers_have_no_area_in_any_direction(
    along: list[float], angle: float, thickness: float, seed: int
) -> None:
    """Points on a strip of less than a pixel, in any order, with any repetition."""
    across = np.random.default_rng(seed).uniform(0, thickness, size=len(along))
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = np.stack([np.array(along) * 80, across], axis=1) @ turned + 150
    assert not has_area(points, 300, 300)
    there_and_back = np.concatenate([points, points[::-1]])
    assert not has_area(there_and_back, 300, 300)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=2, max_size=9), st.integers(0, 2**32 - 1))
def test_an_outline_that_runs_back_over_itself_has_no_area(corners: list[tuple[int, int]], seed: int) -> None:
    points = np.array(corners, dtype=float) + np.random.default_rng(seed).uniform(0, 1, size=2)
    assert not has_area(np.concatenate([points, points[::-1]]), 220, 220)


@given(st.floats(20, 60), st.floats(20, 60), st.floats(2.5, 100), st.floats(0, 2 * np.pi))
def test_squares_and_their_crossed_forms_have_area(x: float, y: float, side: float, angle: float) -> None:
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side @ turned + [x + 150, y + 150]
    assert has_area(corners, 500, 500)
    if side > 6:
        assert has_area(corners[[0, 2, 1, 3]], 500, 500)  # a bow tie: its signed area is 0, but it shows something


def test_a_bent_sliver_has_no_area_and_a_small_object_has() -> None:
    bent = np.array([[10, 10.4], [90, 10.4], [90, 90], [89.7, 90], [89.7, 10.7], [10, 10.7]], dtype=float)
    assert not has_area(bent, 100, 100)
    assert has_area(np.reshape(square(10.2, 10.2, 1.5), (-1, 2)), 100, 100)
    assert not has_area(np.reshape(square(10.2, 10.2, 0.8), (-1, 2)), 100, 100)
    assert has_area(np.array([[10, 10], [90, 10], [90, 11.5], [10, 11.5]]), 100, 100)  # a wire


def test_the_box_holds_all_polygons_of_an_instance() -> None:
    region = Region(((10, 20, 30, 20, 30, 40), (50, 5, 60, 5, 60, 9)))
    assert region.box == (10, 5, 60, 40)
    assert rle.area(region.rle(50, 70), 50, 70) > 0


@given(st.integers(3, 8), st.integers(0, 2**32 - 1))
def test_inner_points_lie_inside_a_convex_region_and_apart(corners: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = (np.arange(corners) + rng.uniform(0, 0.6, size=corners)) * 2 * np.pi / corners
    outline = np.stack([100 + 60 * np.cos(angles), 80 + 30 * np.sin(angles)], axis=1)
    points = inner_points(Region((tuple(outline.reshape(-1).tolist()),)))
    assert 1 <= len(points) <= 3
    assert len(np.unique(points, axis=0)) == len(points)
    for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        side = (end - start)[0] * (points - start)[:, 1] - (end - start)[1] * (points - start)[:, 0]
        # One cell of the raster may reach over an edge.
        assert (side / np.hypot(*(end - start)) > -4.0).all()


def test_the_first_inner_point_is_the_middle_of_a_square_and_not_in_a_hole() -> None:
    square = Region(((10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0),))
    assert inner_points(square)[0] == pytest.approx([30, 30], abs=1.5)
    ring = Region(((0, 0, 90, 0, 90, 90, 0, 90, 0, 0, 30, 30, 30, 60, 60, 60, 60, 30, 30, 30),))  # a hole in the middle
    for x, y in inner_points(ring):
        assert not (32 < x < 58 and 32 < y < 58)


def test_a_region_without_area_gives_the_middle_of_its_box() -> None:
    assert inner_points(Region(((5.0, 7.0, 5.0, 7.0, 5.0, 7.0),))).shape == (1, 2)
