"""One annotation's segmentation, good and bad."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from pipeline.sources.coco_file import BadEntry
from pipeline.sources.segmentation import Mask, read_segmentation

SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]
CORNER = np.zeros((10, 10), np.uint8)
CORNER[1:5, 1:5] = 1
ENCODED = coco.encode(np.asfortranarray(CORNER))["counts"]
RUNS = [11, 4, 6, 4, 6, 4, 6, 4, 55]


def pixels(mask: Mask, height: int = 10, width: int = 10) -> np.ndarray[Any, Any]:
    return np.asarray(coco.decode({"size": [height, width], "counts": mask.counts}))


GOOD: dict[str, tuple[Any, str]] = {
    "polygon": ([SQUARE], ""),
    "polygon of floats": ([[float(v) for v in SQUARE]], ""),
    "flat polygon": (SQUARE, "flat_polygon"),
    "with a polygon of two points": ([SQUARE, [7, 7, 8, 8]], ""),
    "with an empty polygon": ([SQUARE, []], ""),
    "run lengths": ({"size": [10, 10], "counts": RUNS}, ""),
    "run lengths with zeros": ({"size": [10, 10], "counts": [11, 4, 6, 4, 6, 4, 6, 4, 5, 0, 50]}, ""),
    "compressed": ({"size": [10, 10], "counts": ENCODED.decode()}, ""),
    "text of bytes": ({"size": [10, 10], "counts": str(ENCODED)}, "bytes_as_text"),
    "size as texts": ({"size": ["10", 10.0], "counts": RUNS}, ""),
    "without size": ({"counts": RUNS}, ""),
}


@pytest.mark.parametrize(("segmentation", "repair"), GOOD.values(), ids=GOOD.keys())
def test_a_segmentation_is_read_in_every_form(segmentation: Any, repair: str) -> None:
    mask = read_segmentation(segmentation, 10, 10)
    assert np.array_equal(pixels(mask), CORNER)
    assert mask.repair == repair


BAD: dict[str, tuple[Any, str]] = {
    "null": (None, "no_segmentation"),
    "empty list": ([], "no_segmentation"),
    "a text": ("0123456789", "bad_segmentation"),
    "a number": (5, "bad_segmentation"),
    "empty polygon": ([[]], "empty_mask"),
    "two points": ([[1, 1, 5, 5]], "empty_mask"),
    "no area": ([[1, 1, 5, 5, 9, 9]], "empty_mask"),
    "less than a pixel": ([[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]], "empty_mask"),
    "left of the image": ([[-9, 1, -5, 1, -5, 5]], "empty_mask"),
    "below the image": ([[1, 15, 5, 15, 5, 19]], "empty_mask"),
    "odd": ([[1, 1, 5, 1, 5, 5, 1]], "bad_polygon"),
    "flat and odd": ([1, 1, 5, 1, 5, 5, 1], "bad_polygon"),
    "flat box": ([1, 1, 4, 4], "bad_polygon"),
    "far away": ([[0, 0, 1e12, 0, 1e12, 1e12]], "bad_polygon"),
    "smallest integer": ([[0, 0, -(2**63), 0, 5, 5]], "bad_polygon"),
    "too large for a float": ([[0, 0, 10**400, 0, 5, 5]], "bad_polygon"),
    "NaN": ([[0, 0, float("nan"), 0, 5, 5]], "bad_polygon"),
    "infinite": ([[0, 0, float("inf"), 0, 5, 5]], "bad_polygon"),
    "texts": ([["0", "0", "5", "0", "5", "5"]], "bad_polygon"),
    "booleans": ([[True, True, False, True, False, False]], "bad_polygon"),
    "nulls": ([[None] * 6], "bad_polygon"),
    "nested deeper": ([[SQUARE]], "bad_polygon"),
    "points": ([[[1, 1], [5, 1], [5, 5]]], "bad_polygon"),
    "numbers and lists": ([SQUARE, 5], "bad_polygon"),
    "endless outline": ([[0, 0, 39, 39] * 60_000], "bad_polygon"),
    "garbage": ({"size": [10, 10], "counts": "\x01 no run lengths"}, "bad_run_lengths"),
    "not Latin": ({"size": [10, 10], "counts": "\u4e2d\ud800"}, "bad_run_lengths"),
    "endless number": ({"size": [10, 10], "counts": "o" * 100}, "bad_run_lengths"),
    "too short": ({"size": [10, 10], "counts": [50, 40]}, "bad_run_lengths"),
    "too long": ({"size": [10, 10], "counts": [50, 10**9]}, "bad_run_lengths"),
    "negative": ({"size": [10, 10], "counts": [-10, 110]}, "bad_run_lengths"),
    "floats": ({"size": [10, 10], "counts": [50.0, 50.0]}, "bad_run_lengths"),
    "cut off": ({"size": [10, 10], "counts": "PP"}, "bad_run_lengths"),
    "no counts": ({"size": [10, 10]}, "bad_run_lengths"),
    "another size": ({"size": [5, 20], "counts": [11, 89]}, "wrong_size"),
    "size is a text": ({"size": "10", "counts": RUNS}, "wrong_size"),
    "size has three sides": ({"size": [10, 10, 1], "counts": RUNS}, "wrong_size"),
    "nothing set": ({"size": [10, 10], "counts": [100]}, "empty_mask"),
}


@pytest.mark.parametrize(("segmentation", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_segmentation_has_its_reason(segmentation: Any, reason: str) -> None:
    with pytest.raises(BadEntry) as found:
        read_segmentation(segmentation, 10, 10)
    assert found.value.reason == reason


def test_run_lengths_of_the_transposed_image_are_refused() -> None:
    """They fill the image, but the mask would be another one."""
    with pytest.raises(BadEntry, match=r"are for size \[20, 5\], the image is \[5, 20\]"):
        read_segmentation({"size": [20, 5], "counts": [11, 4, 85]}, 5, 20)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_compressed_run_lengths_are_read_as_pycocotools_writes_them(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((height, width)) < rng.random(), np.ones((7, 9))).astype(np.uint8)
    mask[0, 0] = 1
    counts = coco.encode(np.asfortranarray(mask))["counts"]
    for text in (counts.decode("ascii"), str(counts)):
        assert read_segmentation({"size": list(mask.shape), "counts": text}, *mask.shape).counts == counts


numbers = st.integers(-60, 60) | st.floats() | st.integers()
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=9),
    max_leaves=20,
)
runs = st.fixed_dictionaries(
    {"counts": anything | st.text("0123POo\\'b", max_size=9) | st.lists(st.integers(0, 40), max_size=5)},
    optional={"size": anything | st.lists(st.integers(0, 12), min_size=2, max_size=2)},
)


@settings(max_examples=300)
@given(
    anything | runs | st.lists(numbers, max_size=9) | st.lists(st.lists(numbers, max_size=9), max_size=3),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_any_segmentation_is_a_mask_inside_the_image_or_has_a_reason(
    segmentation: Any, height: int, width: int
) -> None:
    try:
        mask = read_segmentation(segmentation, height, width)
    except BadEntry:
        return
    assert pixels(mask, height, width).shape == (height, width)
    assert pixels(mask, height, width).any()


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=3, max_size=6))
def test_a_flat_polygon_is_the_polygon(corners: list[tuple[int, int]]) -> None:
    flat = [value for corner in corners for value in corner]
    try:
        expected = read_segmentation([flat], 12, 12).counts
    except BadEntry as error:
        with pytest.raises(BadEntry, match=str(error)):
            read_segmentation(flat, 12, 12)
    else:
        assert read_segmentation(flat, 12, 12).counts == expected
