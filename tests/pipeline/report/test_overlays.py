"""Masks drawn over images."""

import base64
import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from model.teachers import rle
from pipeline.report.overlays import ACCEPTED, LONGEST, REFUSED, TRUTH, overlay


def jpeg_of(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def as_array(uri: str) -> npt.NDArray[np.uint8]:
    """The pixels (H, W, 3) of a data URI."""
    assert uri.startswith("data:image/webp;base64,")
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))) as picture:
        return np.asarray(picture.convert("RGB"))


def mask(height: int, width: int, *, left: bool) -> str:
    pixels = np.zeros((height, width), bool)
    pixels[:, : width // 2 if left else width] = left
    return rle.encode(pixels)


def test_the_image_is_dimmed_only_outside_the_mask() -> None:
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
    border = shown[shown.shape[0] // 2, 1].astype(int)  # the picture's own edge ends the mask too
    assert np.abs(border - np.array(colour)).max() < 70


def test_the_truth_is_outlined_beside_a_mask_that_fits_it() -> None:
    picture, shape = Image.new("RGB", (60, 40), (90, 90, 90)), mask(40, 60, left=True)
    shown = as_array(overlay(jpeg_of(picture), (40, 60), shape, (), shape)).astype(int)
    row = shown[shown.shape[0] // 2]
    middle = len(row) // 2
    assert np.abs(row[middle - 2] - np.array(ACCEPTED)).max() < 70
    assert np.abs(row[middle + 1] - np.array(TRUTH)).max() < 70
