"""Texts about a scene are true of it, and their targets are the objects that they are about."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.miniature.language import (
    KINDS,
    NUMBERS,
    Question,
    absent_question,
    caption,
    present_question,
    questions,
)
from model.miniature.world import COLOURS, PLAIN, SHAPES, WIDE, Scene, SceneRules, make_scene

SEEDS = st.integers(min_value=0, max_value=2_000_000_000)


def named(text: str) -> list[str]:
    """The '<colour> <shape>' pairs of a text, in order."""
    words = text.replace(",", " ").replace(".", " ").replace("?", " ").split()
    return [f"{a} {b}" for a, b in pairwise(words) if a in COLOURS and b in SHAPES]


RULES = st.sampled_from([PLAIN, WIDE])


@given(SEEDS, st.integers(min_value=0, max_value=7), RULES)
@settings(max_examples=80, deadline=None)
def test_a_caption_names_its_targets_in_order(seed: int, variant: int, rules: SceneRules) -> None:
    """Even variants name all objects, odd ones a single one; the words name exactly the targets, in order."""
    scene = make_scene(seed, rules)
    said = caption(scene, variant)
    assert said == caption(make_scene(seed, rules), variant)
    assert named(said.text) == [scene.objects[i].name for i in said.targets]
    assert len(said.targets) == (1 if variant % 2 else len(scene.objects))
    assert len(set(said.targets)) == len(said.targets)
    assert said.text[0].isupper()
    assert said.text.endswith(".")


def true_of(asked: Question, scene: Scene) -> bool:
    """True if question, answer and targets fit the scene, worked out from the words alone."""
    objects = scene.objects
    if asked.kind == "existence":
        (name,) = named(asked.question)
        hits = tuple(i for i, o in enumerate(objects) if o.name == name)
        start = f"Yes, there is a {name}" if hits else f"No, there is no {name}"
        return asked.targets == hits and asked.answer.startswith(start)
    if asked.kind == "count":
        return asked.targets == tuple(range(len(objects))) and NUMBERS[len(objects)] in asked.answer.split()
    (target,) = asked.targets
    item = objects[target]
    if asked.kind == "colour":
        alone = [o.shape for o in objects].count(item.shape) == 1
        return alone and asked.answer.endswith(f"{item.colour}.")
    if asked.kind == "shape":
        alone = [o.colour for o in objects].count(item.colour) == 1
        return alone and asked.answer.endswith(f"{item.shape}.")
    left, top = item.cx < scene.width / 2, item.cy < scene.height / 2
    spot = f"{'top' if top else 'bottom'} {'left' if left else 'right'}."
    return named(asked.question) == [item.name] and asked.answer.endswith(spot)


@given(SEEDS, RULES)
@settings(max_examples=80, deadline=None)
def test_questions_are_true_of_the_scene(seed: int, rules: SceneRules) -> None:
    """Every answer is right; the same seed gives the same questions; half of the existence questions have a no."""
    scene = make_scene(seed, rules)
    asked = questions(scene)
    assert asked == questions(make_scene(seed, rules))
    for question in asked:
        assert question.kind in KINDS
        assert true_of(question, scene), question
    existence = [q for q in asked if q.kind == "existence"]
    assert sum(not q.targets for q in existence) * 2 == len(existence)
    assert len({q.question for q in existence if not q.targets}) * 2 == len(existence)


def test_most_absent_objects_are_near_misses() -> None:
    """Most negatives repeat a colour or a shape of the scene, not all; every kind of question occurs."""
    near, kinds = [], Counter[str]()
    for seed in range(400):
        scene = make_scene(seed)
        for asked in questions(scene):
            kinds[asked.kind] += 1
            if not asked.targets:
                colour, shape = named(asked.question)[0].split()
                near.append(any(o.colour == colour or o.shape == shape for o in scene.objects))
    assert 0.55 < sum(near) / len(near) < 0.9
    assert set(kinds) == set(KINDS)


@given(SEEDS, RULES)
@settings(max_examples=60, deadline=None)
def test_questions_drawn_for_training_are_true(seed: int, rules: SceneRules) -> None:
    """An absent object is absent, and has a present one's colour where that is asked for; a present one is present."""
    scene = make_scene(seed, rules)
    rng = np.random.default_rng(seed)
    for asked in (absent_question(scene, rng), absent_question(scene, rng, 1.0), present_question(scene, rng)):
        assert true_of(asked, scene), asked
    near = absent_question(scene, rng, same_colour=1.0)
    assert not near.targets
    colours = {o.colour for o in scene.objects}
    full = len(colours) == 1 and len(scene.objects) == len(SHAPES)  # no shape of this colour is absent
    assert full or named(near.question)[0].split()[0] in colours
    assert present_question(scene, rng).targets


def test_negative_variant_is_refused() -> None:
    """A variant below zero is a mistake, not another wording."""
    with pytest.raises(ValueError, match="-2"):
        caption(make_scene(0), -2)
