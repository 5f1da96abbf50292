"""SAM's part: batches of pictures, pictures at fault, and what becomes of masks without pixels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.teachers import rle, segmenting
from model.teachers.finding import EMPTY_QUERY, Found
from model.teachers.polygons import Region
from model.teachers.sam import SamOptions, SamTeacher
from model.teachers.segmenting import Segmenter
from pipeline.masks.config import MaskGates
from pipeline.masks.gates import gate

WIDE, TALL, TINY = (90, 120), (130, 60), (40, 40)
SIZES = [WIDE, TALL, WIDE, TINY, TALL, WIDE, TALL]
PICTURES = [
    np.random.default_rng(number).integers(0, 255, size=(*size, 3), dtype=np.uint8) for number, size in enumerate(SIZES)
]
NOTHING = 2  # the picture without regions


def region(x: float, y: float, phrase: str = "") -> Region:
    return Region(((x, y, x + 20, y, x + 20, y + 15, x, y + 15),), phrase)


def found_in(number: int) -> list[Found]:
    if number == NOTHING:
        return [Found("a cat", score=0.5, ended=True, tokens=1, degenerate=2), Found(" ", reason=EMPTY_QUERY)]
    asked = [Found("one", (region(3, 4, "one"),), score=0.6, ended=False, tokens=9)]
    return [*asked, Found("two", (region(8, 8), region(15, 20))), Found("none", error="ValueError: lost")]


FOUND = [found_in(number) for number in range(len(PICTURES))]


@pytest.fixture
def sam(sam_folder: Path) -> SamTeacher:
    return SamTeacher.load(str(sam_folder))


def watch(sam: SamTeacher, monkeypatch: pytest.MonkeyPatch) -> list[list[np.ndarray]]:
    """The batches of pictures that are encoded."""
    batches: list[list[np.ndarray]] = []
    encode = sam.encode_images
    monkeypatch.setattr(sam, "encode_images", lambda images, rows: batches.append(images) or encode(images, rows))
    return batches


def test_only_pictures_with_regions_are_encoded_each_once(sam: SamTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = watch(sam, monkeypatch)
    evidence, sizes = Segmenter(sam, batch=4).segment(PICTURES, FOUND)
    seen = [id(picture) for batch in batches for picture in batch]
    assert seen == [id(picture) for number, picture in enumerate(PICTURES) if number != NOTHING]
    assert sizes == {"encoded": [4, 2], "prompts": [3] * 6}
    assert [len(own) for own in evidence] == [len(own) for own in FOUND]
    for number, own in enumerate(evidence):
        if number == NOTHING:
            assert [(e.status, e.reason, e.degenerate) for e in own] == [
                ("no_region", "", 2),
                ("no_region", EMPTY_QUERY, 0),
            ]
            continue
        assert [e.status for e in own] == ["ok", "ok", "error"]
        assert [len(e.instances) for e in own] == [1, 2, 0]
        assert (own[0].ended, own[0].answer_tokens, own[0].polygon_score) == (False, 9, 0.6)
        assert own[0].instances[0].phrase == "one"
        assert own[2].reason == "ValueError: lost"
        assert all(i.stability is not None and 0 <= i.stability <= 1 for e in own for i in e.instances)


@pytest.mark.parametrize("size", [(2, 5000), (5000, 2)])
def test_very_narrow_pictures_have_masks_too(sam: SamTeacher, size: tuple[int, int]) -> None:
    height, width = size
    region = Region(((0.0, 0.0, width, 0.0, width, height, 0.0, height),))
    [[evidence]], _ = Segmenter(sam).segment([np.zeros((*size, 3), np.uint8)], [[Found("a line", (region,))]])
    assert (evidence.status, evidence.reason) == ("ok", "")
    assert rle.decode(evidence.instances[0].rle, *size).shape == size


def test_other_batches_change_bits_at_most(sam: SamTeacher) -> None:
    together, _ = Segmenter(sam, batch=8).segment(PICTURES, FOUND)
    assert Segmenter(sam, batch=8).segment(PICTURES, FOUND)[0] == together
    alone, sizes = Segmenter(sam, batch=1).segment(PICTURES, FOUND)
    assert sizes["encoded"] == [1] * 6
    for a, b in zip([e for own in together for e in own], [e for own in alone for e in own], strict=True):
        assert (a.status, a.query, a.ended) == (b.status, b.query, b.ended)
        for one, other in zip(a.instances, b.instances, strict=True):
            assert one.sam_iou == pytest.approx(other.sam_iou, abs=1e-5)
            assert abs(one.area - other.area) <= 10


def test_a_picture_that_fails_costs_its_own_rows_only(sam: SamTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    good, _ = Segmenter(sam, batch=4).segment(PICTURES, FOUND)
    encode: Callable[..., Any] = sam.encode_images

    def failing(images: list[np.ndarray], rows: int | None) -> Any:
        if any(picture.shape[:2] == TINY for picture in images):
            raise ValueError("too small")
        return encode(images, rows)

    monkeypatch.setattr(sam, "encode_images", failing)
    found, sizes = Segmenter(sam, batch=4).segment(PICTURES, FOUND)
    assert sizes["encoded"] == [1, 1, 1, 2]
    for size, before, after in zip(SIZES, good, found, strict=True):
        if size == TINY:
            assert [e.reason for e in after] == ["ValueError: too small"] * 2 + ["ValueError: lost"]
        else:
            assert [e.status for e in after] == [e.status for e in before]


def test_batches_of_pictures_and_of_prompts_are_halved_when_memory_runs_out(
    sam: SamTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, decode = sam.encode_images, sam.segment

    def little(compute: Callable[..., Any], most: int, which: int) -> Callable[..., Any]:
        def limited(*arguments: Any) -> Any:
            if len(arguments[which]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return compute(*arguments)

        return limited

    monkeypatch.setattr(sam, "encode_images", little(encode, 2, 0))
    monkeypatch.setattr(sam, "segment", little(decode, 1, 1))
    found, sizes = Segmenter(sam, batch=4).segment(PICTURES, FOUND)
    assert sizes == {"encoded": [2, 2, 2], "prompts": [1] * 18}
    assert [e.status for e in found[0]] == ["ok", "ok", "error"]


def test_many_prompts_of_a_picture_are_decoded_in_parts(sam: SamTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [[Found("all", tuple(region(x, x) for x in range(7)))]]
    whole, _ = Segmenter(sam).segment(PICTURES[:1], many)
    monkeypatch.setattr(segmenting, "PROMPTS_AT_ONCE", 3)
    parts, sizes = Segmenter(sam).segment(PICTURES[:1], many)
    assert sizes["prompts"] == [3, 3, 1]
    assert [i.sam_iou for i in parts[0][0].instances] == pytest.approx([i.sam_iou for i in whole[0][0].instances])


@pytest.mark.parametrize(
    ("batch", "pictures", "rows"),
    [(4, 4, 4), (4, 3, 4), (4, 2, 2), (4, 1, 1), (6, 3, 3), (6, 4, 6), (5, 2, 2), (1, 1, 1)],
)
def test_a_compiled_encoder_sees_few_sizes(sam: SamTeacher, batch: int, pictures: int, rows: int) -> None:
    """Every other size would be compiled anew; the sizes are those that a batch is halved to."""
    assert Segmenter(sam, batch)._rows(pictures) == rows


def test_only_a_compiled_encoder_is_filled_up(sam_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    for compiled, expected in ((False, [4, 3]), (True, [4, 4])):
        sam = SamTeacher.load(str(sam_folder), options=SamOptions(compiled=compiled))
        shapes: list[int] = []
        encoder = sam._encoder
        monkeypatch.setattr(sam, "_encoder", lambda x, e=encoder, s=shapes: s.append(len(x)) or e(x))
        pictures = [PICTURES[0]] * 7
        evidence, sizes = Segmenter(sam, batch=4).segment(pictures, [FOUND[0]] * 7)
        assert shapes == expected
        assert sizes["encoded"] == [4, 3]
        assert len(evidence) == 7


def test_a_mask_without_pixels_is_kept_as_evidence_and_no_gates_accept_it(
    sam: SamTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam.sam, "mask_threshold", 1e9)
    evidence, _ = Segmenter(sam).segment(PICTURES[:1], [FOUND[0][:1]])
    (instance,) = evidence[0][0].instances
    assert (instance.area, instance.area_fraction, instance.agreement_iou, instance.stability) == (0, 0.0, 0.0, 0.0)
    columns = dict.fromkeys(("sample_id", "turn", "query_kind", "char_start", "char_end", "image_sha256"))
    row = {**columns, "height": 90, "width": 120, "query": "one", "status": "ok", "reason": "", "polygon_score": 0.6}
    row |= {"ended": True, "instances": [vars(replace(instance, sam_iou=0.9))], "teacher": "t"}
    open_gates = MaskGates(min_sam_iou=0, min_agreement_iou=0, min_area=0, max_area=1)
    assert gate(row, open_gates)["reason"] == "min_area"
    assert gate(row, open_gates)["rle"] is None
