"""Upright RGB is the same from a file's bytes, a path or an opened picture."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor, to_rgb
from model.agevlm.processing_agevlm import AgeVlmProcessor
from model.images import ImageError, decode_image
from tests.model.agevlm.fixtures_word_tokenizer import word_tokenizer
from tests.pipeline.sources.fixtures_pictures import animated, half_transparent, rotated_by_exif, sixteen_bit


def stored(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=9), st.sampled_from(["PNG", "TIFF"]))
def test_sixteen_bit_greys_are_divided_by_257(values: list[int], kind: str) -> None:
    """Also in a dark picture, whose values would fit into 8 bits: the scale never depends on the values."""
    deep = Image.fromarray(np.array([values], dtype=np.uint16))
    expected = [[[round(value / 257)] * 3 for value in values]]
    assert np.asarray(to_rgb(deep)).tolist() == expected
    assert np.asarray(to_rgb(Image.fromarray(np.array([values], dtype=np.int32)))).tolist() == expected
    assert np.asarray(decode_image(stored(deep, kind))).tolist() == expected
    assert np.asarray(to_rgb(Image.open(io.BytesIO(stored(deep, kind))))).tolist() == expected


@given(st.integers(0, 255))
def test_an_eight_bit_grey_survives_sixteen_bits(value: int) -> None:
    deep = Image.fromarray(np.full((1, 1), value * 257, dtype=np.uint16))
    assert to_rgb(deep).getpixel((0, 0)) == (value,) * 3


@pytest.mark.parametrize(
    ("pixels", "message"), [(np.array([[70000]], np.int32), "16 bits"), (np.array([[-1]], np.int32), "16 bits"),
                            (np.array([[0.5]], np.float32), "no agreed white")]
)  # fmt: skip
def test_pixels_without_an_agreed_white_are_refused(pixels: np.ndarray, message: str) -> None:
    image = Image.fromarray(pixels)
    with pytest.raises(ValueError, match=message):
        to_rgb(image)
    with pytest.raises(ImageError, match=message) as caught:
        decode_image(stored(image, "TIFF"))
    assert caught.value.reason == "unsupported_mode"


@pytest.mark.parametrize(
    "data",
    [sixteen_bit(), half_transparent(), rotated_by_exif(6), animated()],
    ids=["16 bits", "half transparent", "rotated", "animated"],
)
def test_bytes_pictures_and_paths_show_the_same(data: bytes, tmp_path: Path) -> None:
    expected = np.asarray(decode_image(data))
    assert np.array_equal(np.asarray(to_rgb(Image.open(io.BytesIO(data)))), expected)
    file = tmp_path / "picture"
    file.write_bytes(data)
    processor = AgeVlmProcessor(AgeVlmImageProcessor(64, 16), word_tokenizer())
    shown = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image", key: source}]}],
            tokenize=True, return_dict=True, return_tensors="np",
        )["pixel_values"]
        for key, source in (("image", decode_image(data)), ("path", str(file)), ("image", file))
    ]  # fmt: skip
    assert np.array_equal(shown[0], shown[1])
    assert np.array_equal(shown[0], shown[2])
