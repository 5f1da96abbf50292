"""Fused and compiled encoders of SAM, against the package's own: same weights, same masks within a stated tolerance.

Measured. The trained miniature, 21 objects: in fp32 no pixel of a mask differs; in bf16 2e-5 of the pixels, IoU at
least 0.997. A random ViT-B (1024 px), 4 boxes: in fp32 8e-7 of the pixels, IoU at least 0.9999; in bf16 1.3e-3 of the
pixels, IoU at least 0.991.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from model.miniature.weights import weights_dir
from model.miniature.world import make_scene, render
from model.teachers import rle
from model.teachers.polygons import Region
from model.teachers.sam import SamOptions, SamTeacher
from model.teachers.sam_attention import FusedAttention

SCENES = range(40, 52)
DIFFERENT_PIXELS = {"fp32": 1e-5, "bf16": 2e-3}
LEAST_IOU = {"fp32": 0.999, "bf16": 0.98}


@pytest.mark.parametrize(("side", "windows"), [(16, 3), (7, 4)])
@pytest.mark.parametrize("relative", [True, False])
def test_fused_attention_is_the_packages(side: int, windows: int, relative: bool) -> None:
    torch.manual_seed(side)
    package = Attention(48, 4, use_rel_pos=relative, input_size=(side, side))
    if relative:
        torch.nn.init.normal_(package.rel_pos_h, std=0.5)
        torch.nn.init.normal_(package.rel_pos_w, std=0.5)
    fused = FusedAttention(package)
    assert fused.state_dict().keys() == package.state_dict().keys()
    x = torch.randn(windows, side, side, 48)
    with torch.inference_mode():
        assert torch.allclose(fused(x), package(x), atol=1e-5)


def masks(teacher: SamTeacher) -> list[np.ndarray]:
    """The mask of every object of the scenes, by its exact box."""
    found = []
    for seed in SCENES:
        image, truth = render(make_scene(seed))
        regions = []
        for mask in truth:
            ys, xs = np.nonzero(mask)
            x0, y0, x1, y1 = float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())
            regions.append(Region(((x0, y0, x1, y0, x1, y1, x0, y1),)))
        for segment in teacher.segment(teacher.encode_image(image), regions):
            found.append(rle.decode(segment.rle, *image.shape[:2]))
    return found


def compare(options: SamOptions, precision: Any) -> tuple[float, list[float]]:
    """Share of pixels that differ from the package's masks, and the IoU of each mask with the package's."""
    folder = str(weights_dir() / "sam")
    ours = masks(SamTeacher.load(folder, precision=precision, options=options))
    theirs = masks(SamTeacher.load(folder, precision=precision))
    ious = [float((a & b).sum() / (a | b).sum()) for a, b in zip(ours, theirs, strict=True)]
    return float(np.mean([(a != b).mean() for a, b in zip(ours, theirs, strict=True)])), ious


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masks_of_fused_attention_are_the_packages_within_the_tolerance(precision: str) -> None:
    different, ious = compare(SamOptions(attention="sdpa"), precision)
    assert len(ious) > 20
    assert different <= DIFFERENT_PIXELS[precision]
    assert min(ious) >= LEAST_IOU[precision]


@pytest.mark.system
def test_masks_of_the_compiled_encoder_are_the_packages_within_the_tolerance() -> None:
    different, ious = compare(SamOptions(attention="sdpa", compiled=True), "fp32")
    assert different <= DIFFERENT_PIXELS["fp32"]
    assert min(ious) >= LEAST_IOU["fp32"]


def test_the_weights_of_a_fused_encoder_keep_their_names(sam_folder: Path) -> None:
    package, fused = (
        SamTeacher.load(str(sam_folder), options=SamOptions(attention=kind)).sam.state_dict()
        for kind in ("package", "sdpa")
    )
    assert package.keys() == fused.keys()
    assert all(torch.equal(package[name], fused[name]) for name in package)
