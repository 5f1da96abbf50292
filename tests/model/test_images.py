"""Decoding of untrusted images."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.images import MAX_BYTES, ImageError, decode_image
from tests.pipeline.sources.fixtures_pictures import (
    BLUE,
    RED,
    animated,
    bomb,
    encoded,
    half_transparent,
    halves,
    rotated_by_exif,
    sixteen_bit,
)


def close(pixel: object, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - colour).max() <= tolerance)


def reason_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    return caught.value.reason


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})],
)
def test_formats_are_told_by_content(kind: str, options: dict[str, object]) -> None:
    image = decode_image(encoded(halves(), kind, **options))
    assert image.mode == "RGB"
    assert image.size == (40, 20)
    assert close(image.getpixel((2, 10)), RED)
    assert close(image.getpixel((37, 10)), BLUE)


@pytest.mark.parametrize(
    ("orientation", "size", "red_at"),
    [(1, (40, 20), (2, 10)), (3, (40, 20), (37, 10)), (6, (20, 40), (10, 2)), (8, (20, 40), (10, 37))],
)
def test_exif_rotation_is_applied(orientation: int, size: tuple[int, int], red_at: tuple[int, int]) -> None:
    image = decode_image(rotated_by_exif(orientation))
    assert image.size == size
    assert close(image.getpixel(red_at), RED, 20)


def test_broken_exif_says_nothing() -> None:
    data = encoded(halves(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03", quality=95)
    assert decode_image(data).size == (40, 20)


def test_deep_grey_is_scaled_not_clipped() -> None:
    image = decode_image(sixteen_bit())
    assert image.getpixel((0, 0)) == (0x12, 0x12, 0x12)
    assert image.getpixel((19, 0)) == (255, 255, 255)


def test_transparent_pixels_show_white_and_not_what_they_hide() -> None:
    image = decode_image(half_transparent())
    assert image.getpixel((2, 2)) == RED
    assert image.getpixel((17, 2)) == (255, 255, 255)


def test_palette_with_transparency() -> None:
    palette = halves().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    data = encoded(palette, "PNG", transparency=palette.getpixel((39, 0)))
    image = decode_image(data)
    assert close(image.getpixel((2, 2)), RED)
    assert image.getpixel((39, 0)) == (255, 255, 255)


def test_cmyk_is_converted() -> None:
    image = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert close(image.getpixel((4, 4)), (255, 0, 0), 40)


def test_animation_shows_its_first_frame() -> None:
    assert close(decode_image(animated()).getpixel((8, 8)), RED)


def test_bad_files_are_refused_by_name() -> None:
    jpeg = encoded(halves(400, 300), "JPEG", quality=95)
    assert reason_of(b"") == "zero_byte"
    assert reason_of(bytes(MAX_BYTES + 1)) == "too_large"
    assert reason_of(b"<html>404 not found</html>") == "not_an_image"
    assert reason_of(b'<svg xmlns="http://www.w3.org/2000/svg"/>') == "not_an_image"
    assert reason_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not_an_image"
    assert reason_of(bomb()) == "bomb"
    assert reason_of(bomb(9500, 9000)) == "bomb"
    assert reason_of(jpeg[: len(jpeg) // 2]) == "truncated"
    assert reason_of(encoded(Image.new("F", (4, 4), 0.5), "TIFF")) == "unsupported_mode"


def test_the_error_names_the_bytes_and_survives_pickling() -> None:
    with pytest.raises(ImageError, match="JPEG, PNG") as caught:
        decode_image(b"hello, I am no image")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.reason, str(copy)) == (caught.value.reason, str(caught.value))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_decode_or_raise_image_error(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from([encoded(halves(), "JPEG"), encoded(halves()), animated(), rotated_by_exif(6)]))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(good)))])
    try:
        image = decode_image(cut)
    except ImageError:  # any other error fails the test
        return
    assert image.mode == "RGB"
    assert len(image.tobytes()) == 3 * image.width * image.height
