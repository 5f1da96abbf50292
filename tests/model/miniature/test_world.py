"""The rendered world: pure functions of a seed, exact and disjoint masks."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.miniature.world import (
    COLOURS,
    PLAIN,
    SHAPES,
    SIZES,
    TRAINING_SEEDS,
    WIDE,
    SceneObject,
    SceneRules,
    make_scene,
    object_mask,
    outline,
    render,
)

SEEDS = st.integers(min_value=0, max_value=2 * TRAINING_SEEDS)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_a_scene_is_a_pure_function_of_its_seed(seed: int) -> None:
    """Same seed, same scene, same pixels; and drawing another scene in between changes nothing."""
    scene = make_scene(seed)
    picture, masks = render(scene)
    render(make_scene(seed + 1))
    again, masks_again = render(make_scene(seed))
    assert make_scene(seed) == scene
    assert np.array_equal(picture, again)
    assert np.array_equal(masks, masks_again)


@given(SEEDS, st.sampled_from([PLAIN, WIDE]))
@settings(max_examples=60, deadline=None)
def test_masks_are_disjoint_exact_and_inside(seed: int, rules: SceneRules) -> None:
    """Each mask has its object's area and centre, none touches another, none is cut off by the border."""
    scene = make_scene(seed, rules)
    picture, masks = render(scene)
    assert (scene.width, scene.height) in SIZES
    assert picture.shape == (scene.height, scene.width, 3)
    assert picture.dtype == np.uint8
    assert masks.shape == (len(scene.objects), scene.height, scene.width)
    assert masks.dtype == np.bool_
    assert masks.sum(axis=0).max() <= 1
    for item, mask in zip(scene.objects, masks, strict=True):
        x, y = outline(item).T
        area = 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
        assert mask.sum() == pytest.approx(area, rel=0.06)
        assert not np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any()
        ys, xs = np.nonzero(mask)
        assert abs(xs.mean() + 0.5 - x.mean()) < 1.0
        assert abs(ys.mean() + 0.5 - y.mean()) < 1.0


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_every_object_is_one_of_its_kind(seed: int) -> None:
    """One to three objects, known colours and shapes, no pair twice: a name singles an object out."""
    objects = make_scene(seed).objects
    assert 1 <= len(objects) <= 3
    assert len({item.name for item in objects}) == len(objects)
    assert all(item.colour in COLOURS and item.shape in SHAPES for item in objects)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_rules_bound_a_scene(seed: int) -> None:
    """Numbers and radii are within the rules, and names still single objects out."""
    objects = make_scene(seed, WIDE).objects
    assert 1 <= len(objects) <= 4
    assert len({item.name for item in objects}) == len(objects)
    assert all(8 <= item.radius <= 27 for item in objects)


def test_scenes_without_rules_never_change() -> None:
    """Data sets, artifact ids and the shipped weights depend on these very pictures."""
    content = hashlib.sha256()
    for seed in (*range(20), *range(TRAINING_SEEDS, TRAINING_SEEDS + 20)):
        scene = make_scene(seed)
        for value in (scene.width, scene.height, *(o.name for o in scene.objects)):
            content.update(f"{value} ".encode())
        content.update(np.packbits(render(scene)[1]).tobytes())
    assert content.hexdigest()[:16] == "e7515d3e81cbea92"
    assert {len(make_scene(seed, WIDE).objects) for seed in range(40)} == {1, 2, 3, 4}


def test_about_half_of_the_objects_have_a_distractor() -> None:
    """About half of the objects share colour or shape with another one, and all sizes and counts occur."""
    scenes = [make_scene(seed) for seed in range(600)]
    objects = [(item, scene) for scene in scenes for item in scene.objects]
    shared = [
        any((o.colour == item.colour) != (o.shape == item.shape) for o in scene.objects if o is not item)
        for item, scene in objects
    ]
    assert 0.4 < np.mean(shared) < 0.7
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    assert {(scene.width, scene.height) for scene in scenes} == set(SIZES)


def test_the_object_is_painted_in_its_colour() -> None:
    """Inside its mask an object has its colour's mean, outside the picture is duller than any colour."""
    for seed in range(30):
        scene = make_scene(seed)
        picture, masks = render(scene)
        for item, mask in zip(scene.objects, masks, strict=True):
            assert np.abs(picture[mask].mean(axis=0) - COLOURS[item.colour]).max() < 40
        ground = picture[~masks.any(axis=0)].astype(float)
        assert np.ptp(ground.mean(axis=0)) < 60


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_are_clockwise_and_start_at_the_top(shape: str) -> None:
    """The first point of a polygon is its top (a square's: its top left); the points go clockwise."""
    item = SceneObject("red", shape, 64.0, 64.0, 20.0, 0.0)
    points = outline(item)
    x, y = points.T
    assert float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) > 0  # clockwise, y downwards
    assert points[0, 1] == pytest.approx(y.min())
    assert object_mask(item, 128, 128)[64, 64]


def test_negative_seed_is_refused() -> None:
    """A seed below zero has no scene."""
    with pytest.raises(ValueError, match="-1"):
        make_scene(-1)


def test_world_and_language_need_no_torch() -> None:
    """Writing the data set does not import torch."""
    code = "import sys, model.miniature.world, model.miniature.language; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
