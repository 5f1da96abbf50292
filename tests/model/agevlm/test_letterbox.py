"""The geometry of the square for images and masks, compared with exact fractions for every pixel."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.agevlm.letterbox import LETTERBOXES, Geometry, content_cells, fit, mask_to_cells

SIZES = st.integers(1, 70)
FITTINGS = st.sampled_from(LETTERBOXES)


def touched(size: int, start: int, length: int, geometry: Geometry, pixel: int) -> set[int]:
    """Cells that one image pixel reaches along one axis, by exact fractions."""
    low = start + Fraction(pixel * length, size)
    high = start + Fraction((pixel + 1) * length, size)
    return {c for c in range(geometry.grid) if c * geometry.stride < high and (c + 1) * geometry.stride > low}


@given(SIZES, SIZES, FITTINGS, st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_any_is_exactly_the_cells_that_a_mask_pixel_reaches(height: int, width: int, letterbox: str, seed: int) -> None:
    geometry = fit(height, width, 64, 16, letterbox)
    mask = np.random.default_rng(seed).random((height, width)) < 0.05
    expected = np.zeros((4, 4), dtype=bool)
    for y, x in zip(*np.nonzero(mask), strict=True):
        for row in touched(height, geometry.top, geometry.inner_height, geometry, int(y)):
            for column in touched(width, geometry.left, geometry.inner_width, geometry, int(x)):
                expected[row, column] = True
    assert np.array_equal(mask_to_cells(mask, geometry), expected)


@given(SIZES, SIZES, FITTINGS, st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_laws_of_masks_on_cells(height: int, width: int, letterbox: str, seed: int) -> None:
    geometry = fit(height, width, 64, 16, letterbox)
    draw = np.random.default_rng(seed)
    small = draw.random((height, width)) < 0.1
    large = small | (draw.random((height, width)) < 0.3)
    content = content_cells(geometry)
    everything = np.ones((height, width), dtype=bool)
    assert np.array_equal(mask_to_cells(everything, geometry), content)
    assert content.any()
    assert mask_to_cells(small, geometry).any() == small.any()  # no mask is ever lost
    for rule in ("any", "half", "nearest"):
        a, b = mask_to_cells(small, geometry, rule), mask_to_cells(large, geometry, rule)
        assert not (a & ~b).any()  # a larger mask never has fewer cells
        assert not (b & ~content).any()
        assert not mask_to_cells(~everything, geometry, rule).any()
    assert not (mask_to_cells(large, geometry, "half") & ~mask_to_cells(large, geometry)).any()


@given(SIZES, SIZES, FITTINGS)
@settings(max_examples=60, deadline=None)
def test_the_image_stays_inside_and_keeps_its_shape(height: int, width: int, letterbox: str) -> None:
    g = fit(height, width, 64, 16, letterbox)
    assert g.top >= 0
    assert g.left >= 0
    assert g.top + g.inner_height <= 64
    assert g.left + g.inner_width <= 64
    assert max(g.inner_height, g.inner_width) == 64
    if letterbox != "squash":
        scale = 64 / max(height, width)
        assert abs(g.inner_height - height * scale) <= 0.5 or g.inner_height == 1
        assert abs(g.inner_width - width * scale) <= 0.5 or g.inner_width == 1
        assert abs(64 - g.inner_height - 2 * g.top) <= 1


def test_the_papers_square() -> None:
    g = fit(480, 640, 768, 32)
    assert (g.inner_height, g.inner_width, g.top, g.left) == (576, 768, 96, 0)
    assert content_cells(g).sum() == 18 * 24
    one_pixel = np.zeros((480, 640), dtype=bool)
    one_pixel[479, 639] = True
    assert np.argwhere(mask_to_cells(one_pixel, g)).tolist() == [[20, 23]]


def test_half_and_nearest_by_hand() -> None:
    g = fit(64, 64, 64, 16)
    mask = np.zeros((64, 64), dtype=bool)
    mask[:16, :8] = True  # exactly half of cell (0, 0), and not its centre, which lies in column 8
    mask[20:28, 20:28] = True  # a quarter of cell (1, 1), with its centre pixel at 24
    assert np.argwhere(mask_to_cells(mask, g)).tolist() == [[0, 0], [1, 1]]
    assert np.argwhere(mask_to_cells(mask, g, "half")).tolist() == [[0, 0]]
    assert not mask_to_cells(mask, g, "nearest")[0, 0]
    mask[24, 24] = True
    assert np.argwhere(mask_to_cells(mask, g, "nearest")).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(0, 5, 64, 16), "0 x 5 pixels"),
        (lambda: fit(5, 5, 65, 16), "side is 65"),
        (lambda: fit(5, 5, 64, 16, "crop"), "'crop'"),
        (lambda: mask_to_cells(np.ones((3, 4), dtype=bool), fit(4, 3, 64, 16)), r"mask is \(3, 4\)"),
        (lambda: mask_to_cells(np.ones((4, 3), dtype=bool), fit(4, 3, 64, 16), "most"), "'most'"),
    ],
)
def test_errors_name_the_value(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
