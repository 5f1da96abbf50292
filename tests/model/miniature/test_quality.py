"""The shipped teachers on scenes that they never saw: as good as when shipped, less a small margin.

Figures and how they were measured: model/miniature/weights/README.md.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.miniature.language import questions
from model.miniature.quality import Chain, iou, measure, probes, sam_iou, summary
from model.miniature.weights import weights_dir
from model.miniature.world import make_scene

SCENES = 40


@pytest.fixture(scope="module")
def chain() -> Chain:
    """The shipped teachers."""
    torch.set_num_threads(1)
    return Chain(weights_dir())


@pytest.fixture(scope="module")
def figures(chain: Chain) -> dict[str, float]:
    """The chain's figures on SCENES unseen scenes, six texts each."""
    return summary(list(measure(chain, SCENES)))


def test_chain_from_text_to_mask(figures: dict[str, float]) -> None:
    """Mean IoU of the union of masks with the exact mask of what the text is about, over all kinds."""
    assert figures["chain_iou"] > 0.82
    assert figures["polygon_iou"] > 0.62


def test_silence_about_the_absent(figures: dict[str, float]) -> None:
    """A question about something absent gets no polygon in most cases; with its answer 'No, ..' always."""
    assert figures["silent on absent"] > 0.5
    assert figures["silent on absent and answer"] > 0.95


def test_sam_alone(chain: Chain) -> None:
    """Given the exact box of each object."""
    assert sam_iou(chain, SCENES) > 0.90


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
