"""Cells from a mask's runs are those from its bitmap, bit for bit."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.agevlm import letterbox
from model.agevlm.letterbox import LETTERBOXES, RULES, fit, mask_to_cells, runs_to_cells
from model.teachers import rle

SIZES = st.integers(1, 90) | st.sampled_from([1, 2, 3, 64, 640])
KINDS = ("noise", "blocks", "dot", "full", "empty", "last_pixel", "columns")


def mask_of(kind: str, height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), dtype=bool)
    if kind == "noise":
        mask = rng.random((height, width)) < rng.random()
    elif kind == "blocks":
        for _ in range(3):
            top, left = rng.integers(height), rng.integers(width)
            mask[top : top + 1 + rng.integers(height), left : left + 1 + rng.integers(width)] ^= True
    elif kind == "dot":
        mask[rng.integers(height), rng.integers(width)] = True
    elif kind == "full":
        mask[:] = True
    elif kind == "last_pixel":
        mask[-1, -1] = True
    elif kind == "columns":
        mask[:, :: 1 + rng.integers(3)] = True
    return mask


@given(
    st.sampled_from(KINDS),
    SIZES,
    SIZES,
    st.integers(0, 10_000),
    st.sampled_from([(64, 16), (96, 32), (70, 7), (32, 32)]),
    st.sampled_from(LETTERBOXES),
    st.sampled_from(RULES),
    st.booleans(),
)
@example("full", 1, 640, 0, (64, 16), "mean", "half", True)
@example("dot", 640, 1, 0, (64, 16), "zero", "any", True)
@settings(max_examples=400)
def test_runs_give_the_cells_of_the_bitmap(
    kind: str, height: int, width: int, seed: int, square: tuple[int, int], fitted: str, rule: str, always: bool
) -> None:
    """`always`: take the way through the runs for masks that are too broken up for it, too."""
    mask = mask_of(kind, height, width, seed)
    geometry = fit(height, width, *square, fitted)
    boundaries = rle.boundaries(rle.encode(mask))
    with pytest.MonkeyPatch.context() as patch:
        if always:
            patch.setattr(letterbox, "PIXELS_PER_BOUNDARY", 0)
        cells = runs_to_cells(boundaries, geometry, rule)
    expected = mask_to_cells(mask, geometry, rule)
    assert cells.dtype == expected.dtype
    assert cells.shape == expected.shape
    assert np.array_equal(cells, expected)


def test_sums_that_float64_cannot_hold_are_left_to_the_bitmap(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = mask_of("blocks", 300, 300, 0)
    geometry = fit(300, 300, 2**22, 2**21)
    calls = []
    monkeypatch.setattr(letterbox, "PIXELS_PER_BOUNDARY", 0)
    monkeypatch.setattr(letterbox, "mask_to_cells", lambda *a: calls.append(a) or mask_to_cells(*a))
    assert np.array_equal(runs_to_cells(rle.boundaries(rle.encode(mask)), geometry), mask_to_cells(mask, geometry))
    assert len(calls) == 1


def test_runs_of_another_frame_and_unknown_rules_are_refused() -> None:
    boundaries = rle.boundaries(rle.encode(np.ones((4, 6), dtype=bool)))
    with pytest.raises(ValueError, match=r"mask has 24 pixels, its image \(4, 5\)"):
        runs_to_cells(boundaries, fit(4, 5, 64, 16))
    with pytest.raises(ValueError, match="choose one of 'any'"):
        runs_to_cells(boundaries, fit(4, 6, 64, 16), "most")
