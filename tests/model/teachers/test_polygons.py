"""Florence-2's location tokens as pixels, and what SAM is shown of a region."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.teachers import rle
from model.teachers.polygons import BINS, Region, inner_points, regions

SIZE = st.integers(1, 5000)
POLYGON = st.lists(st.integers(0, BINS - 1), min_size=0, max_size=20)


@given(SIZE, SIZE, st.lists(st.lists(POLYGON, max_size=3), max_size=3))
def test_every_polygon_of_every_instance_is_kept_unless_it_has_no_area(
    height: int, width: int, parsed: list[list[list[int]]]
) -> None:
    expected = [[p for p in instance if len(p) // 2 >= 3] for instance in parsed]
    found = regions(parsed, height, width)
    assert [len(region.polygons) for region in found] == [len(kept) for kept in expected if kept]
    for region in found:
        for polygon in region.polygons:
            xs, ys = np.reshape(polygon, (-1, 2)).T
            assert ((xs > 0) & (xs < width)).all()
            assert ((ys > 0) & (ys < height)).all()


@given(SIZE, SIZE, st.integers(0, BINS - 1), st.integers(0, BINS - 1))
def test_a_bin_is_its_middle_along_its_own_axis(height: int, width: int, x: int, y: int) -> None:
    (region,) = regions([[[x, y, 0, 0, 999, 999]]], height, width)
    assert region.polygons[0][:2] == pytest.approx(((x + 0.5) * width / BINS, (y + 0.5) * height / BINS))


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
