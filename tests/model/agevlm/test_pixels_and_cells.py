"""The picture that the encoder sees and the mask on its cells have one geometry: shapes are drawn and found again."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.agevlm.letterbox import LETTERBOXES, RULES, content_cells, mask_to_cells

SIDE, STRIDE = 96, 16
SIZES = st.integers(1, 150) | st.sampled_from([1, 2, 3, 95, 96, 97, 640])


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    """Height and width of a picture, and top, left, bottom and right of a rectangle in it."""
    height, width = draw(SIZES), draw(SIZES)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return height, width, top, left, draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))


@given(rectangles(), st.sampled_from(LETTERBOXES))
@example((1, 640, 0, 100, 1, 300), "mean")
@example((640, 1, 100, 0, 300, 1), "zero")
@example((1, 640, 0, 100, 1, 300), "squash")
@settings(max_examples=120, deadline=None)
def test_a_masks_cells_are_where_its_pixels_are(place: tuple[int, int, int, int, int, int], letterbox: str) -> None:
    """To half a cell: the edges of the bright pixels and of the cells' area differ by less than that and a blur."""
    height, width, top, left, bottom, right = place
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    processor = AgeVlmImageProcessor(SIDE, STRIDE, letterbox, image_mean=[0.001] * 3)  # black around the picture
    square, geometry = processor.canvas(Image.fromarray(mask.astype(np.uint8) * 255))
    light = np.asarray(square, dtype=np.float64).mean(axis=2) / 255
    exact = np.array(
        [
            geometry.top + top * geometry.inner_height / height,
            geometry.top + bottom * geometry.inner_height / height,
            geometry.left + left * geometry.inner_width / width,
            geometry.left + right * geometry.inner_width / width,
        ]
    )
    rows, columns = light.max(axis=1), light.max(axis=0)
    if rows.max() > 0.5:  # else the rectangle is thinner than a pixel of the square
        bright = [np.flatnonzero(line > 0.5) for line in (rows, columns)]
        found = np.array([edge for line in bright for edge in (line[0], line[-1] + 1)])
        blur = max(1.0, geometry.inner_height / height, geometry.inner_width / width) / 2 + 1
        assert np.abs(found - exact).max() <= max(blur, STRIDE / 2)
    cells = np.argwhere(mask_to_cells(mask, geometry)) * STRIDE
    low, high = cells.min(axis=0), cells.max(axis=0) + STRIDE
    assert low[0] <= exact[0] < low[0] + STRIDE
    assert high[0] - STRIDE < exact[1] <= high[0]
    assert low[1] <= exact[2] < low[1] + STRIDE
    assert high[1] - STRIDE < exact[3] <= high[1]
    half = mask_to_cells(mask, geometry, "half")
    if half.any():  # a cell that is covered by half: the edges are at most half a cell away
        cells = np.argwhere(half) * STRIDE
        assert cells.min(axis=0)[0] >= exact[0] - STRIDE / 2
        assert (cells.max(axis=0) + STRIDE)[0] <= exact[1] + STRIDE / 2
        assert cells.min(axis=0)[1] >= exact[2] - STRIDE / 2
        assert (cells.max(axis=0) + STRIDE)[1] <= exact[3] + STRIDE / 2


@given(rectangles(), st.sampled_from(LETTERBOXES), st.sampled_from(RULES))
@settings(max_examples=120, deadline=None)
def test_valid_cells_are_those_with_pixels(
    place: tuple[int, int, int, int, int, int], letterbox: str, rule: str
) -> None:
    height, width, top, left, bottom, right = place
    processor = AgeVlmImageProcessor(SIDE, STRIDE, letterbox, image_mean=[0.001] * 3)
    white = Image.new("RGB", (width, height), (255, 255, 255))
    square, geometry = processor.canvas(white)
    lit = np.asarray(square)[..., 0].reshape(geometry.grid, STRIDE, geometry.grid, STRIDE).max(axis=(1, 3)) > 0
    valid = processor([white])["cell_mask"][0].reshape(geometry.grid, geometry.grid)
    assert np.array_equal(valid, lit)
    assert np.array_equal(valid, content_cells(geometry))
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    assert not (mask_to_cells(mask, geometry, rule) & ~lit).any()  # no cell of a mask is padding
