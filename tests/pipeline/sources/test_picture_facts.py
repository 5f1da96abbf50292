"""The facts about good, odd and bad picture files."""

import hashlib
import resource
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.errors import ImageError
from model.images import MAX_BYTES, decode_image
from pipeline.sources.picture_facts import PictureFacts, picture_facts
from tests.pipeline.sources.fixtures_odd_pictures import (
    ACCEPTED,
    BMP,
    COMPRESSED,
    END,
    GIF,
    JPEG,
    LOSSLESS,
    PNG,
    PROGRESSIVE,
    REFUSED,
    SMALL,
    TIFF,
    WEBP,
    exif_block,
    photo,
    segment,
    with_segments,
)
from tests.pipeline.sources.fixtures_pictures import bomb, encoded, halves

FORMATS = {"JPEG": JPEG, "progressive": PROGRESSIVE, "PNG": PNG, "WEBP": WEBP, "lossless": LOSSLESS, "GIF": GIF,
           "BMP": BMP, "TIFF": TIFF, "compressed": COMPRESSED}  # fmt: skip


def reason_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        picture_facts(data)
    return caught.value.reason


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_picture_is_refused_by_name(name: str) -> None:
    data, reason = REFUSED[name]
    assert reason_of(data) == reason


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_odd_picture_is_accepted_and_opens(name: str) -> None:
    data, kind, width, height = ACCEPTED[name]
    assert picture_facts(data) == PictureFacts(hashlib.sha256(data).hexdigest(), kind, width, height, 1)
    assert decode_image(data).size == (width, height)


def test_a_huge_file_is_refused() -> None:
    assert reason_of(bytes(MAX_BYTES + 1)) == "too_large"


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_facts_are_those_of_the_upright_picture(kind: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(halves(), kind, exif=exif)
    facts = picture_facts(data)
    assert facts.orientation == turn
    assert (facts.width, facts.height) == decode_image(data).size == ((40, 20) if turn < 5 else (20, 40))


@pytest.mark.parametrize("order", "<>")
def test_an_orientation_beside_a_damaged_entry_is_applied(order: str) -> None:
    for exif in (exif_block(6, order), exif_block(6, order)[6:]):
        data = with_segments(SMALL, segment(0xE1, b"Exif\0\0" + exif.removeprefix(b"Exif\0\0")))
        facts = picture_facts(data)
        assert (facts.width, facts.height, facts.orientation) == (20, 40, 6)
        assert decode_image(data).size == (20, 40)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_anywhere_is_truncated_or_has_all_of_its_pixels(kind: str) -> None:
    data = FORMATS[kind]
    pixels = np.asarray(decode_image(data))
    reasons: list[str] = []
    for length in {*range(16, len(data), max(1, len(data) // 120)), *range(len(data) - 40, len(data))}:
        for end in (b"", END) if data[:2] == SMALL[:2] else (b"",):
            try:
                picture_facts(data[:length] + end)
            except ImageError as error:
                reasons.append(error.reason)
            else:
                assert length > len(data) - 24  # the end of the pixels' coding, checksums and end marks
                assert np.array_equal(np.asarray(decode_image(data[:length] + end)), pixels)
    assert set(reasons) == {"truncated"}
    assert len(reasons) > 100


def test_a_bomb_is_refused_without_its_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason_of(bomb()) == "bomb"
    for name in REFUSED:
        if REFUSED[name][1] == "bomb":
            assert reason_of(REFUSED[name][0]) == "bomb"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB; 30,000 x 30,000 take 2.7 GB


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_give_facts_or_an_image_error(data: st.DataObject) -> None:
    """Also: no warning, no long time, and a JPEG or other file that has facts can be decoded to just these."""
    good = data.draw(st.sampled_from([*FORMATS.values(), SMALL]))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(good) - 1) | st.integers(0, min(700, len(good) - 1)))
        damaged[place] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.just(len(good)) | st.integers(0, len(good)))])
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            facts = picture_facts(cut)
        except ImageError:
            return
        image = decode_image(cut)
    assert image.size == (facts.width, facts.height)
    assert time.perf_counter() - start < 20


def test_many_threads_check_at_once_without_a_warning() -> None:
    from concurrent.futures import ThreadPoolExecutor

    files = [with_segments(SMALL, segment(0xE1, exif_block(6))), encoded(photo(), "TIFF")[:-1], SMALL] * 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool:
            sizes = list(pool.map(_size_or_reason, files))
    assert sizes == [(20, 40), "truncated", (40, 20)] * 8


def _size_or_reason(data: bytes) -> tuple[int, int] | str:
    try:
        return decode_image(data).size
    except ImageError as error:
        return error.reason
