"""Prepared pictures: the same as the processor's, whether they are kept or not."""

from typing import Any

import pytest
import torch

from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.images import ImageError, decode_image
from model.miniature.world import make_scene, render
from pipeline.training.data.pictures import LEAST_KEPT, Normaliser, PreparedPictures
from tests.pipeline.training.fixtures_tiny_training import SIDE, STRIDE, jpeg

PICTURES = [jpeg(render(make_scene(seed))[0]) for seed in range(4)]
ONE = 3 * SIDE * SIDE
"""Bytes of one picture's pixels."""


class Counting:
    """The student's processor, which counts its calls."""

    def __init__(self) -> None:
        self.calls, self.processor = 0, AgeVlmImageProcessor(SIDE, STRIDE)

    def canvas(self, picture: Any) -> Any:
        self.calls += 1
        return self.processor.canvas(picture)


def test_a_picture_is_the_processors_each_time_and_is_prepared_once() -> None:
    process = Counting()
    prepared = PreparedPictures(process)
    normalise = Normaliser.of(process.processor)
    expected = process.processor([decode_image(p) for p in PICTURES], return_tensors="pt")
    for _ in range(3):
        for number, picture in enumerate(PICTURES):
            pixels, cells = prepared(bytes(bytearray(picture)))  # equal bytes, another object
            assert pixels.dtype == torch.uint8
            assert torch.equal(normalise(pixels[None])[0], expected["pixel_values"][number])
            assert torch.equal(cells, expected["cell_mask"][number].bool())
    assert process.calls == len(PICTURES)


def test_the_least_recently_used_picture_is_dropped() -> None:
    process = Counting()
    prepared = PreparedPictures(process, limit=LEAST_KEPT * ONE)
    many = [jpeg(render(make_scene(seed))[0]) for seed in range(LEAST_KEPT + 1)]
    for picture in many[:LEAST_KEPT]:
        prepared(picture)
    prepared(many[0])  # used again
    prepared(many[LEAST_KEPT])  # takes the place of the second
    before = process.calls
    prepared(many[0])
    assert process.calls == before
    prepared(many[1])
    assert process.calls == before + 1


def test_pictures_of_which_few_fit_are_not_kept() -> None:
    process = Counting()
    prepared = PreparedPictures(process, limit=LEAST_KEPT * ONE - 1)
    prepared(PICTURES[0]), prepared(PICTURES[0])
    assert process.calls == 2


def test_a_damaged_picture_is_refused_each_time() -> None:
    prepared = PreparedPictures(Counting())
    for _ in range(2):
        with pytest.raises(ImageError):
            prepared(PICTURES[0][:100])


def test_every_value_is_normalised_as_the_processor_does_it() -> None:
    """All 256 values of each channel, to the bit."""
    processor = AgeVlmImageProcessor(16, 16)
    square = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3).contiguous()
    expected = processor([square.numpy()], return_tensors="pt")["pixel_values"]
    assert torch.equal(Normaliser.of(processor)(square[None]), expected)
