"""Florence-2's tasks: prompts, phrases with their boxes, and texts that are about nothing."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor

from model.teachers.finding import EMPTY_QUERY, Finder
from model.teachers.florence import Answer, FlorenceSettings, FlorenceTeacher
from model.teachers.grounding import Grounding
from model.teachers.sam import SamTeacher
from model.teachers.segmenting import Segmenter
from model.teachers.tasks import TASKS, mentions_something

TOKENS = {"referring": "<REFERRING_EXPRESSION_SEGMENTATION>", "phrase_grounding": "<CAPTION_TO_PHRASE_GROUNDING>"}


@pytest.fixture(scope="module")
def grounder(talkative: Path) -> FlorenceTeacher:
    return FlorenceTeacher.load(talkative, FlorenceSettings(task="phrase_grounding", max_new_tokens=12))


def said(text: str) -> Answer:
    return Answer(text, score=0.5, ended=True, tokens=9)


def test_prompts_are_those_of_transformers_processor(talkative: Path) -> None:
    processor = AutoProcessor.from_pretrained(talkative)
    assert TASKS.keys() == TOKENS.keys()
    for name, task in TASKS.items():
        teacher = FlorenceTeacher.load(talkative, FlorenceSettings(task=name))
        (stock,) = processor._construct_prompts(TOKENS[name] + "a red circle")
        assert teacher.prompt("a red circle") == stock
        assert task.parser == processor.tasks_answer_post_processing_type[TOKENS[name]]
    own = FlorenceTeacher.load(talkative, FlorenceSettings(task="phrase_grounding", prompt="Find {query}."))
    assert own.prompt("a </s> <OCR> b") == "Find a < /s> < OCR> b."


LOCATION = st.integers(0, 999)
BOXES = st.lists(st.tuples(LOCATION, LOCATION, LOCATION, LOCATION), min_size=1, max_size=3)
PHRASES = st.lists(st.tuples(st.sampled_from(["a red circle", "circle", "two stars", "x"]), BOXES), max_size=4)


@given(PHRASES)
def test_each_box_of_each_phrase_is_an_instance(
    grounder: FlorenceTeacher, phrases: list[tuple[str, list[tuple[int, int, int, int]]]]
) -> None:
    text = "".join(name + "".join(f"<loc_{v}>" for box in boxes for v in box) for name, boxes in phrases)
    regions, dropped = grounder.regions(said(f"</s><s>{text}</s>"), 1000, 2000)
    expected = [
        (name, (min(x0, x1) * 2 + 1, min(y0, y1) + 0.5, max(x0, x1) * 2 + 1, max(y0, y1) + 0.5))
        for name, boxes in phrases
        for x0, y0, x1, y1 in boxes
        if x0 != x1 and y0 != y1
    ]
    assert [(region.phrase, region.box) for region in regions] == [(n, pytest.approx(b)) for n, b in expected]
    assert dropped == sum(len(boxes) for _, boxes in phrases) - len(expected)
    for region in regions:
        assert len(region.polygons) == 1


def test_boxes_are_those_of_the_stock_parser_up_to_its_rounding(grounder: FlorenceTeacher, talkative: Path) -> None:
    text = "</s><s>a star<loc_20><loc_40><loc_500><loc_700>the image<loc_0><loc_0><loc_999><loc_999></s>"
    processor = AutoProcessor.from_pretrained(talkative)
    stock = processor.post_process_generation(text, task=TOKENS["phrase_grounding"], image_size=(300, 200))
    ((region,), _) = grounder.regions(said(text), 200, 300)  # "the image" is no phrase, says the processor
    assert stock[TOKENS["phrase_grounding"]] == {
        "bboxes": [np.floor(region.box).astype(int).tolist()],
        "labels": [region.phrase],
    }


@pytest.mark.parametrize("prompt", ["box", "box_and_mask", "points"])
def test_phrases_become_masks_with_every_prompt_of_sam(
    grounder: FlorenceTeacher, sam_folder: Path, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = "<loc_20><loc_40><loc_500><loc_700><loc_600><loc_600><loc_900><loc_900>"
    text = f"</s><s>a star{boxes}a dot<loc_7><loc_7><loc_7><loc_7></s>"
    monkeypatch.setattr(grounder, "ask", lambda seen, queries: [said(text)] * len(queries))
    grounding = Grounding(Finder(grounder), Segmenter(SamTeacher.load(str(sam_folder), prompt)))
    image = np.random.default_rng(0).integers(0, 255, size=(100, 140, 3), dtype=np.uint8)
    (evidence,) = grounding.ground(image, ["a star and a dot"])
    assert (evidence.status, evidence.degenerate) == ("ok", 1)
    assert [instance.phrase for instance in evidence.instances] == ["a star", "a star"]
    assert evidence.instances[0].box == pytest.approx((20.5 * 0.14, 4.05, 500.5 * 0.14, 70.05))
    assert all(instance.agreement_iou is not None for instance in evidence.instances)


EMPTY = ["", " ", "\t\n", "\u00a0\u2003", "\u200b\ufeff", "...", "?!", "\u0301"]


@pytest.mark.parametrize("text", EMPTY)
def test_a_text_about_nothing_never_reaches_florence(
    grounder: FlorenceTeacher, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    seen: list[int] = []
    ask, encode = grounder.ask, grounder.encode_images
    monkeypatch.setattr(grounder, "ask", lambda s, queries: asked.extend(queries) or ask(s, queries))
    monkeypatch.setattr(grounder, "encode_images", lambda pictures: seen.append(len(pictures)) or encode(pictures))
    image = np.zeros((50, 60, 3), dtype=np.uint8)
    found, sizes = Finder(grounder).find([(image, [text, "a star", text]), (image, [text])])
    assert asked == ["a star"]
    assert seen == [1]  # a picture without any text is not looked at
    assert sizes == {"pictures": [1], "queries": [1]}
    assert [f.reason for own in found for f in own] == [EMPTY_QUERY, "", EMPTY_QUERY, EMPTY_QUERY]
    assert [f.error for own in found for f in own] == [""] * 4
    assert found[1][0].query == text


@pytest.mark.parametrize("text", ["a", "7", "\u4e2d", "\U0001f680", "+", "cafe\u0301", " . x"])
def test_a_letter_a_digit_or_a_symbol_is_enough(text: str) -> None:
    assert mentions_something(text)
