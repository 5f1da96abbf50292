"""Turning rows into tensors: padding, labels, the tokens of the query, and masks that are left out of the guidance."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.agevlm.image_processing_agevlm import AgeVlmImageProcessor
from model.errors import DataError
from model.miniature.world import make_scene, render
from pipeline.masks.cells import Entry
from pipeline.training.data.batches import Collator, query_tokens
from pipeline.training.data.loader import prefetched
from pipeline.training.data.pack_reader import PackRow, Span
from tests.pipeline.training.fixtures_tiny_training import SIDE, STRIDE, ExactGuide, jpeg

# "<u>Is it red?<a>It is.": template tokens of three characters, then one token per word or punctuation mark.
TEXT = "<u>Is it red?<a>It is."
TOKENS = [(0, 3), (3, 5), (5, 8), (8, 12), (12, 13), (13, 16), (16, 18), (18, 21), (21, 22)]
SPAN = Span(turn=0, question_start=3, question_end=13, answer_start=16, answer_end=22)
CELLS = (SIDE // STRIDE) ** 2


def row(image: bytes | None, sample_id: str = "s", tokens: int = len(TOKENS)) -> PackRow:
    starts, ends = (np.array([t[i] for t in TOKENS[:tokens]]) for i in (0, 1))
    return PackRow(sample_id, image, np.arange(1, tokens + 1), starts >= 16, starts, ends, (SPAN,))


@pytest.fixture(scope="module")
def picture() -> bytes:
    return jpeg(render(make_scene(0))[0])


def collator(guide: ExactGuide | None = None) -> Collator:
    return Collator(AgeVlmImageProcessor(image_size=SIDE, stride=STRIDE), pad_id=0, guide=guide)


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (0, 10, ["Is", " it", " red", "?"]),  # the question
        (11, 17, ["It", " is", "."]),  # the answer, which begins after one space
        (0, 17, ["Is", " it", " red", "?", "It", " is", "."]),
        (6, 9, [" red"]),
        (10, 11, []),  # the space between them is in no token
        (9, 12, ["?", "It"]),
    ],
)
def test_query_tokens_cover_exactly_the_characters(start: int, end: int, words: list[str]) -> None:
    marked = query_tokens(row(None), SPAN, start, end)
    assert [TEXT[a:b] for (a, b), m in zip(TOKENS, marked, strict=True) if m] == words


def test_rows_are_padded_and_labels_kept_for_targets_only(picture: bytes) -> None:
    batch = collator()([row(picture), row(None, tokens=7)])
    assert batch.input_ids.tolist()[1] == [1, 2, 3, 4, 5, 6, 7, 0, 0]
    assert batch.attention_mask.sum(1).tolist() == [9, 7]
    assert batch.labels.tolist() == [[-100] * 6 + [7, 8, 9], [-100] * 6 + [7, -100, -100]]
    assert (batch.target_tokens, batch.tokens, batch.images) == (4, 16, 1)
    assert batch.has_image is not None
    assert batch.has_image.tolist() == [True, False]
    assert batch.pixel_values is not None
    assert batch.pixel_values.shape == (1, 3, SIDE, SIDE)
    assert batch.cell_mask is not None
    assert batch.cell_mask.shape == (2, CELLS)
    assert not batch.cell_mask[1].any()
    assert set(batch.inputs()) == {
        "input_ids",
        "attention_mask",
        "labels",
        "pixel_values",
        "cell_mask",
        "has_image",
    }


def test_a_text_only_batch_has_no_pixels() -> None:
    batch = collator()([row(None), row(None)])
    assert set(batch.inputs()) == {"input_ids", "attention_mask", "labels"}
    assert batch.images == 0


def test_a_part_without_rows_takes_part_and_counts_nothing() -> None:
    batch = collator()([])
    assert batch.input_ids.shape == (1, 2)
    assert batch.attention_mask.all()
    assert set(batch.inputs()) == {"input_ids", "attention_mask", "labels"}
    assert (batch.target_tokens, batch.guided_rows, batch.images, batch.tokens) == (0, 0, 0, 0)


def guided(turns: list[Entry], *rows: PackRow) -> Any:
    guide = ExactGuide()
    guide.table["s"] = turns
    return collator(guide)(rows)


def turn(cells: list[int], number: int = 0, start: int = 0, end: int = 10) -> Entry:
    mask = np.zeros(CELLS, dtype=bool)
    mask[cells] = True
    return Entry(number, "question", start, end, mask.reshape(SIDE // STRIDE, -1))


def test_a_guided_row_has_its_mask_and_its_query_tokens(picture: bytes) -> None:
    batch = guided([turn([5, 6])], row(picture, "other"), row(picture))
    assert batch.guided.tolist() == [False, True]
    assert batch.guided_rows == 1
    assert batch.guidance_mask[1].nonzero().flatten().tolist() == [5, 6]
    assert batch.query_mask[1].nonzero().flatten().tolist() == [1, 2, 3, 4]
    assert not batch.query_mask[0].any()
    assert not batch.notes


def test_masks_that_cannot_guide_are_counted_by_reason(picture: bytes) -> None:
    assert guided([turn([5]), turn([6], end=17)], row(picture)).notes == {"further_turn": 1}
    assert guided([turn([5], number=3)], row(picture)).notes == {"turn_cut_off": 1}
    assert guided([turn([5], start=10, end=11)], row(picture)).notes == {"no_query_token": 1}
    assert guided([turn([])], row(picture)).notes == {"empty_mask": 1}
    assert guided([turn([])], row(picture)).guided is None
    assert guided([turn([5])], row(None)).guided is None
    # If the first turn cannot guide, the second does.
    batch = guided([turn([]), turn([6])], row(picture))
    assert batch.notes == {"empty_mask": 1}
    assert batch.guidance_mask[0].nonzero().flatten().tolist() == [6]


def test_a_broken_image_is_named() -> None:
    with pytest.raises(DataError, match="pack row s: its image cannot be decoded"):
        collator()([row(b"no image")])


def test_prefetching_keeps_order_and_raises_errors_of_its_thread() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise DataError("broken")

    items = prefetched(source())
    assert [next(items) for _ in range(5)] == list(range(5))
    with pytest.raises(DataError, match="broken"):
        next(items)


def test_prefetching_stops_with_its_consumer(tmp_path: Path) -> None:
    endless = prefetched(iter(int, 1))
    assert next(endless) == 0
    endless.close()  # type: ignore[attr-defined]
    assert "prefetch" not in {t.name for t in threading.enumerate()}


def test_tokens_and_pixels_move_to_the_device_and_masks_stay(picture: bytes) -> None:
    batch = guided([turn([5, 6])], row(picture))
    moved = batch.to(torch.device("meta"))
    on_device = {name for name, value in moved.inputs().items() if value.device.type == "meta"}
    assert on_device == {"input_ids", "pixel_values"}
    assert moved.guided_rows == 1
