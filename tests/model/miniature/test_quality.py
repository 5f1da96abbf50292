"""The shipped teachers on scenes that they never saw: as good as when shipped, less a small margin.

Figures and how they were measured: model/miniature/weights/README.md.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.miniature.language import questions
from model.miniature.quality import WORLDS, Chain, Result, iou, is_small, measure, probes, sam_ious, summary, unseen
from model.miniature.weights import weights_dir
from model.miniature.world import WIDE, make_scene, render

SCENES = {"plain": 30, "wide": 24}


@pytest.fixture(scope="module")
def chain() -> Chain:
    """The shipped teachers."""
    torch.set_num_threads(1)
    return Chain(weights_dir())


@pytest.fixture(scope="module")
def figures(chain: Chain) -> dict[str, dict[str, float]]:
    """World -> the chain's figures on unseen scenes, six texts each."""
    return {world: summary(list(measure(chain, unseen(SCENES[world], rules)))) for world, rules in WORLDS.items()}


def test_chain_from_text_to_mask(figures: dict[str, dict[str, float]]) -> None:
    """Mean IoU of the union of masks with the exact mask of what the text is about, over all kinds."""
    assert figures["plain"]["chain_iou"] > 0.91
    assert figures["plain"]["polygon_iou"] > 0.75
    assert figures["wide"]["chain_iou"] > 0.84


def test_small_objects_and_crowds(figures: dict[str, dict[str, float]]) -> None:
    """Most small objects are found, and most of four."""
    assert figures["wide"]["recall of small objects"] > 0.9
    assert figures["wide"]["chain_iou with 4 objects"] > 0.8


def test_silence_about_the_absent(figures: dict[str, dict[str, float]]) -> None:
    """A question about something absent gets no polygon, with or without its answer 'No, ..'."""
    for world in WORLDS:
        assert figures[world]["silent on absent"] > 0.95
        assert figures[world]["silent on absent and answer"] > 0.95


def test_sam_alone(chain: Chain) -> None:
    """Given the exact box of each object."""
    assert np.mean(sam_ious(chain, unseen(SCENES["plain"]))[0]) > 0.91
    every, small = sam_ious(chain, unseen(SCENES["wide"], WIDE))
    assert np.mean(every) > 0.86
    assert np.mean(small) > 0.79
    assert len(small) < len(every)


def test_unseen_scenes_of_a_number_of_objects() -> None:
    """Only scenes with that number; one that the rules do not have is refused."""
    assert {len(scene.objects) for scene in unseen(5, WIDE, 4)} == {4}
    assert unseen(3) == unseen(5)[:3]
    with pytest.raises(ValueError, match="objects is 4; these scenes have from 1 to 3"):
        unseen(1, objects=4)


def test_a_small_object_is_one_of_less_than_two_hundredths_of_its_picture() -> None:
    """All sizes occur in wide scenes, and the word means the mask's share."""
    masks = [mask for scene in unseen(60, WIDE) for mask in render(scene)[1]]
    assert 0.2 < np.mean([is_small(mask) for mask in masks]) < 0.6
    assert not is_small(np.ones((10, 10), dtype=bool))
    assert is_small(np.arange(100).reshape(10, 10) < 1)
    assert not is_small(np.arange(100).reshape(10, 10) < 2)


def test_summary_by_hand() -> None:
    """Shares, means and groups of four results."""
    scene = make_scene(11)
    about, absent = probes(scene)[2], probes(scene)[4]
    rows = [
        Result(about, len(about.targets), 0.5, 0.9, 1, objects=1, small=False),
        Result(about, 0, 0.0, 0.0, 2, objects=2, small=True),
        Result(absent, 0, None, None, 3, objects=2, small=False),
        Result(absent, 1, None, None, 4, objects=1, small=False),
    ]
    found = summary(rows)
    assert found["chain_iou"] == pytest.approx(0.45)
    assert found["recall"] == found["right_count"] == found["silent on absent"] == 0.5
    assert found["recall of small objects"] == found["chain_iou with 2 objects"] == 0.0
    assert found["chain_iou with 1 objects"] == 0.9


def test_probes_hold_every_kind_of_text() -> None:
    """Each scene is asked six ways, two of them about something absent."""
    scene = make_scene(11)
    asked = probes(scene)
    assert len({p.kind for p in asked}) == 6
    assert [p.kind for p in asked if not p.targets] == ["absent", "absent and answer"]
    present = {q.question for q in questions(scene) if q.targets}
    assert next(p for p in asked if p.kind == "question").text in present


def test_iou_by_hand() -> None:
    """Two of four cells shared is a half; empty against empty is 0, so silence earns nothing."""
    one = np.array([[True, True, True, False]])
    other = np.array([[False, True, True, True]])
    assert iou(one, other) == 0.5
    assert iou(one & ~one, other & ~other) == 0.0
