"""Masks that were drawn on the stored picture, turned as the picture is."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pycocotools import mask as coco

from pipeline.sources.frames import Frame, truth_in_frame, upright
from pipeline.sources.records import Truth

ABSENT = Truth(False, 0, 0, None)


def turned_by_pil(pixels: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def truth_of(mask: np.ndarray[Any, Any]) -> Truth:
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")
    return Truth(True, *mask.shape, rle)


def mask_of(truth: Truth) -> np.ndarray[Any, Any]:
    return np.asarray(coco.decode({"size": [truth.height, truth.width], "counts": truth.rle}))


@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_stored_mask_is_turned_as_pil_turns_its_picture(orientation: int, height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 2, (height, width), dtype=np.uint8)
    expected = turned_by_pil(mask * 255, orientation) // 255
    assert np.array_equal(upright(mask, orientation), expected)
    truth = truth_in_frame(truth_of(mask), orientation, height, width, "stored")
    assert truth is not None
    assert (truth.height, truth.width) == expected.shape
    assert np.array_equal(mask_of(truth), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(3, 5), (4, 4)])
def test_a_mask_of_a_corner_lands_in_the_corner_that_pil_shows(orientation: int, shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, np.uint8)
    mask[0, :2] = 1
    truth = truth_in_frame(truth_of(mask), orientation, *shape, "stored")
    assert truth is not None
    assert np.array_equal(mask_of(truth), turned_by_pil(mask * 255, orientation) // 255)


MARK = np.array([[1, 1, 0], [0, 0, 0]], np.uint8)
SQUARE = np.array([[1, 1], [0, 0]], np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_without_a_frame_truth_is_in_doubt_if_both_frames_have_one_size(orientation: int) -> None:
    square, wide = truth_of(SQUARE), truth_of(MARK)
    assert truth_in_frame(square, orientation, 2, 2, None) == (square if orientation == 1 else None)
    assert truth_in_frame(wide, orientation, 2, 3, None) == (None if orientation in (2, 3, 4) else wide)
    assert truth_in_frame(ABSENT, orientation, 2, 2, None) == ABSENT


@pytest.mark.parametrize("frame", ["upright", "stored", None])
@pytest.mark.parametrize("orientation", [0, 1, 9, -1])
def test_a_picture_that_is_stored_upright_has_one_frame(orientation: int, frame: Frame | None) -> None:
    assert truth_in_frame(truth_of(MARK), orientation, 2, 3, frame) == truth_of(MARK)


def test_a_stated_frame_leaves_a_mask_of_another_size_in_its_own_size() -> None:
    """The inventory compares sizes afterwards, and finds that it does not fit."""
    upright_mask = truth_of(MARK.T)
    assert truth_in_frame(upright_mask, 6, 2, 3, "upright") == upright_mask
    turned = truth_in_frame(upright_mask, 6, 2, 3, "stored")
    assert turned is not None
    assert (turned.height, turned.width) == (2, 3)
    assert truth_in_frame(ABSENT, 6, 2, 3, "stored") == ABSENT
