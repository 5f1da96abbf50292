"""Both teachers together: batches, errors, evidence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.miniature.world import make_scene, render
from model.teachers import rle
from model.teachers.batching import in_batches, reason_of
from model.teachers.evidence import Evidence
from model.teachers.finding import Finder
from model.teachers.florence import FlorenceSettings, FlorenceTeacher
from model.teachers.grounding import Grounding
from model.teachers.sam import SamTeacher
from model.teachers.segmenting import Segmenter
from tests.model.teachers.fixtures_tiny_teachers import LOCATIONS

ITEMS = [
    (render(make_scene(seed))[0], [f"a {item.name}" for item in make_scene(seed).objects] + ["something else"])
    for seed in range(5)
]


@pytest.fixture
def grounding(talkative: Path, sam_folder: Path) -> Grounding:
    florence = FlorenceTeacher.load(talkative, FlorenceSettings(max_new_tokens=LOCATIONS))
    return Grounding(Finder(florence, batch=4), Segmenter(SamTeacher.load(str(sam_folder))))


def test_every_query_has_evidence_in_order_and_in_the_full_frame(grounding: Grounding) -> None:
    evidence, batches = grounding.ground_all(ITEMS)
    rows = sum(len(queries) for _, queries in ITEMS)
    assert [[e.query for e in own] for own in evidence] == [queries for _, queries in ITEMS]
    assert batches["pictures"] == [4, 1]
    assert batches["queries"] == [4] * (rows // 4) + ([rows % 4] if rows % 4 else [])
    for (image, _), own in zip(ITEMS, evidence, strict=True):
        height, width = image.shape[:2]
        for item in own:
            assert item.status == "ok"
            assert item.polygon_score is not None
            assert 0 < item.polygon_score < 1
            for instance in item.instances:
                mask = rle.decode(instance.rle, height, width)
                drawn = rle.decode(rle.from_polygons(instance.polygons, height, width), height, width)
                assert instance.area == mask.sum()
                either = (mask | drawn).sum()
                assert instance.agreement_iou == pytest.approx((mask & drawn).sum() / either)
                points = np.concatenate([np.reshape(p, (-1, 2)) for p in instance.polygons])
                assert instance.box == pytest.approx((*points.min(axis=0), *points.max(axis=0)))


def test_the_same_input_gives_the_same_evidence_and_each_model_looks_once(
    grounding: Grounding, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    florence, sam = grounding.finder.florence.encode_images, grounding.segmenter.sam.encode_images
    monkeypatch.setattr(
        grounding.finder.florence, "encode_images", lambda p: encoded.extend(["florence"] * len(p)) or florence(p)
    )
    monkeypatch.setattr(
        grounding.segmenter.sam, "encode_images", lambda p, rows: encoded.extend(["sam"] * len(p)) or sam(p, rows)
    )
    first, _ = grounding.ground_all(ITEMS)
    assert sorted(encoded) == ["florence"] * len(ITEMS) + ["sam"] * len(ITEMS)
    assert grounding.ground_all(ITEMS)[0] == first


def test_other_batches_change_bits_at_most(grounding: Grounding) -> None:
    """Regrouping rows may change the last bits of a score, never what was said (in fp32)."""
    together, _ = grounding.ground_all(ITEMS)
    grounding.finder.batch = 1
    alone, batches = grounding.ground_all(ITEMS)
    assert set(batches["queries"]) == {1}
    for a, b in zip([e for own in together for e in own], [e for own in alone for e in own], strict=True):
        assert [i.polygons for i in a.instances] == [i.polygons for i in b.instances]
        assert a.polygon_score == pytest.approx(b.polygon_score, rel=1e-4)


@pytest.mark.parametrize("order", [[4, 2, 0, 1, 3], [3, 1]])
def test_evidence_does_not_depend_on_the_other_pictures_of_a_shard(grounding: Grounding, order: list[int]) -> None:
    whole, _ = grounding.ground_all(ITEMS)
    found, _ = grounding.ground_all([ITEMS[index] for index in order])
    for index, own in zip(order, found, strict=True):
        for a, b in zip(whole[index], own, strict=True):
            assert (a.query, a.status, a.ended, a.answer_tokens) == (b.query, b.status, b.ended, b.answer_tokens)
            assert [i.polygons for i in a.instances] == [i.polygons for i in b.instances]
            assert [i.sam_iou for i in a.instances] == pytest.approx([i.sam_iou for i in b.instances], abs=1e-5)


def fail_on(word: str, ask: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    def failing(seen: torch.Tensor, queries: list[str]) -> Any:
        if any(word in query for query in queries):
            raise error
        return ask(seen, queries)

    return failing


def test_a_query_that_fails_costs_no_other_row(grounding: Grounding, monkeypatch: pytest.MonkeyPatch) -> None:
    good, _ = grounding.ground_all(ITEMS)
    image, queries = ITEMS[2]
    items = [*ITEMS[:2], (image, [*queries, "poison"]), *ITEMS[3:]]
    monkeypatch.setattr(
        grounding.finder.florence, "ask", fail_on("poison", grounding.finder.florence.ask, RuntimeError("bad\nrow"))
    )
    found, _ = grounding.ground_all(items)
    assert found[2].pop() == Evidence("poison", "error", "RuntimeError: bad row")
    for a, b in zip([e for own in good for e in own], [e for own in found for e in own], strict=True):
        assert [i.polygons for i in a.instances] == [i.polygons for i in b.instances]


def test_a_picture_that_florence_cannot_see_costs_its_own_queries(
    grounding: Grounding, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = grounding.finder.florence.encode_images

    def blind(pictures: list[Any]) -> torch.Tensor:
        if any(picture.size == (7, 5) for picture in pictures):
            raise ValueError("too small")
        return encode(pictures)

    monkeypatch.setattr(grounding.finder.florence, "encode_images", blind)
    found, batches = grounding.ground_all([ITEMS[0], (np.zeros((5, 7, 3), np.uint8), ["x", "y"]), ITEMS[1]])
    assert [e.reason for e in found[1]] == ["ValueError: too small"] * 2
    assert {e.status for e in found[0] + found[2]} == {"ok"}
    assert batches["pictures"] == [1, 1]


@pytest.mark.parametrize("method", ["encode_images", "segment"])
def test_when_sam_fails_the_rows_of_that_picture_are_errors(
    grounding: Grounding, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    original = getattr(grounding.segmenter.sam, method)
    sick = ITEMS[1][0].shape[:2]

    def failing(first: Any, *rest: Any) -> Any:
        sizes = [image.shape[:2] for image in first] if method == "encode_images" else [first.original]
        if sick in sizes:
            raise IndexError("no such window")
        return original(first, *rest)

    monkeypatch.setattr(grounding.segmenter.sam, method, failing)
    found, _ = grounding.ground_all(ITEMS)
    for (image, _), own in zip(ITEMS, found, strict=True):
        expected = "IndexError: no such window" if image.shape[:2] == sick else ""
        assert {e.reason for e in own} == {expected}


def test_numbers_that_are_none_are_errors(grounding: Grounding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        grounding.finder.florence, "_scores", lambda hidden, mask, sequences: [float("nan")] * len(sequences)
    )
    found, _ = grounding.ground_all(ITEMS[:1])
    assert {e.reason for e in found[0]} == {"ArithmeticError: Florence-2's score is nan"}


def test_out_of_memory_halves_the_batch_and_says_so() -> None:
    calls: list[int] = []

    def compute(batch: list[int]) -> list[int]:
        calls.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [value * 10 for value in batch]

    sizes: list[int] = []
    assert in_batches(list(range(11)), 8, compute, sizes) == [value * 10 for value in range(11)]
    assert calls == [8, 4, 2, 2, 4, 2, 2, 3, 2, 1]
    assert sizes == [2, 2, 2, 2, 2, 1]


def test_a_row_that_fits_nowhere_is_an_error_of_its_own() -> None:
    def compute(batch: list[int]) -> list[int]:
        if 3 in batch:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 byte")
        return batch

    found = in_batches(list(range(6)), 6, compute, [])
    assert [value for value in found if isinstance(value, int)] == [0, 1, 2, 4, 5]
    assert isinstance(found[3], RuntimeError)
    assert reason_of(found[3]).startswith("out_of_memory:")


def test_no_pictures_and_no_queries_are_no_error(grounding: Grounding) -> None:
    assert grounding.ground_all([])[0] == []
    assert grounding.ground(ITEMS[0][0], []) == []


@pytest.mark.parametrize("prompt", ["box_and_mask", "points"])
def test_every_kind_of_prompt_reaches_the_masks(talkative: Path, sam_folder: Path, prompt: Any) -> None:
    florence = FlorenceTeacher.load(talkative, FlorenceSettings(max_new_tokens=LOCATIONS))
    by_box = Grounding(Finder(florence), Segmenter(SamTeacher.load(str(sam_folder), "box"))).ground(*ITEMS[0])
    other = Grounding(Finder(florence), Segmenter(SamTeacher.load(str(sam_folder), prompt))).ground(*ITEMS[0])
    assert [e.status for e in other] == [e.status for e in by_box]
    assert [i.sam_iou for e in other for i in e.instances] != [i.sam_iou for e in by_box for i in e.instances]
