"""SAM as a teacher, against segment-anything's own predictor and a geometry oracle."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segment_anything.predictor
import torch

from model.miniature.sam import load_sam
from model.miniature.weights import weights_dir
from model.miniature.world import make_scene, render
from model.teachers import rle
from model.teachers.polygons import Region
from model.teachers.sam import SamOptions, SamTeacher


def box_region(x0: float, y0: float, x1: float, y1: float) -> Region:
    return Region(((x0, y0, x1, y0, x1, y1, x0, y1),))


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 255, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(96, 128), (200, 60), (128, 128), (37, 301)])
def test_boxes_give_the_predictors_masks(sam_folder: Path, size: tuple[int, int]) -> None:
    teacher = SamTeacher.load(str(sam_folder))
    image = picture(*size)
    height, width = size
    boxes = [(1.0, 2.0, width / 2, height / 2), (width / 3, height / 4, width - 1.0, height - 2.0)]
    predictor = segment_anything.predictor.SamPredictor(load_sam(sam_folder))
    predictor.set_image(image)
    segments = list(teacher.segment(teacher.encode_image(image), [box_region(*box) for box in boxes]))
    assert len(segments) == 2
    for box, segment in zip(boxes, segments, strict=True):
        masks, quality, _ = predictor.predict(box=np.array(box), multimask_output=False)
        mask = rle.decode(segment.rle, height, width)
        assert (mask != masks[0]).mean() < 1e-3  # the order of sums may move a border pixel
        assert segment.iou == pytest.approx(float(quality[0]), abs=1e-4)


class Echo(torch.nn.Module):
    """Stands for the mask decoder: answers with the mask prompt, so that only geometry is left."""

    def forward(self, dense_prompt_embeddings: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return dense_prompt_embeddings, torch.ones(len(dense_prompt_embeddings), 1)


class Constant(torch.nn.Module):
    """Stands for the mask decoder: answers with one value everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, sparse_prompt_embeddings: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        rows = len(sparse_prompt_embeddings)
        return torch.full((rows, 1, 64, 64), self.value), torch.ones(rows, 1)


@pytest.mark.parametrize("size", [(90, 150), (260, 100), (128, 128)])
def test_a_mask_prompt_comes_back_at_its_place(sam_folder: Path, size: tuple[int, int]) -> None:
    """A polygon that goes through SAM's frame and back is the same polygon, on any shape of image."""
    teacher = SamTeacher.load(str(sam_folder), prompt="box_and_mask")
    height, width = size
    encoder = teacher.sam.prompt_encoder

    def through(points: Any, boxes: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        square = teacher.sam.image_encoder.img_size
        expected = np.array([width * 0.3, height * 0.2, width * 0.8, height * 0.7]) * square / max(height, width)
        assert boxes[0].numpy() == pytest.approx(expected, rel=0.03)
        return torch.zeros(len(masks), 0, 8), masks

    encoder.forward = through
    teacher.sam.mask_decoder = Echo()
    region = box_region(width * 0.3, height * 0.2, width * 0.8, height * 0.7)
    (segment,) = teacher.segment(teacher.encode_image(picture(*size)), [region])
    assert rle.iou(segment.rle, region.rle(height, width), height, width) > 0.9


@pytest.mark.parametrize("prompt", ["box", "box_and_mask", "points"])
def test_prompts_do_not_see_each_other(sam_folder: Path, prompt: Any) -> None:
    teacher = SamTeacher.load(str(sam_folder), prompt=prompt)
    embedding = teacher.encode_image(picture(80, 120))
    regions = [box_region(x, 10, x + 40, 60) for x in (5.0, 30.0, 60.0)]
    together = list(teacher.segment(embedding, regions))
    alone = [segment for region in regions for segment in teacher.segment(embedding, [region])]
    for a, b in zip(together, alone, strict=True):
        assert a.iou == pytest.approx(b.iou, abs=1e-5)
        union = rle.area(rle.union([a.rle, b.rle], 80, 120), 80, 120)
        assert union - rle.area(rle.intersection([a.rle, b.rle], 80, 120), 80, 120) <= 10


def test_pictures_of_any_size_are_encoded_as_one_batch(sam_folder: Path) -> None:
    teacher = SamTeacher.load(str(sam_folder))
    images = [picture(*size) for size in [(96, 128), (200, 60), (37, 301), (128, 128)]]
    filled = teacher.encode_images(images, rows=6)  # blank pictures change nothing and are not returned
    assert len(filled) == 4
    for image, one, other in zip(images, teacher.encode_images(images), filled, strict=True):
        alone = teacher.encode_image(image)
        assert (one.resized, one.original) == (alone.resized, alone.original) == (other.resized, image.shape[:2])
        assert torch.allclose(one.features, alone.features, atol=1e-5)
        assert torch.allclose(one.features, other.features, atol=1e-5)
        assert alone.features.abs().max() > 0.1


def test_of_three_masks_the_one_with_the_best_predicted_iou_is_taken(sam_folder: Path) -> None:
    teacher = SamTeacher.load(str(sam_folder), options=SamOptions(multimask=True))
    image, boxes = picture(90, 120), [(5.0, 9.0, 60.0, 80.0), (50.0, 20.0, 110.0, 70.0), (0.0, 0.0, 119.0, 89.0)]
    predictor = segment_anything.predictor.SamPredictor(load_sam(sam_folder))
    predictor.set_image(image)
    segments = list(teacher.segment(teacher.encode_image(image), [box_region(*box) for box in boxes]))
    single = SamTeacher.load(str(sam_folder))
    first = list(single.segment(single.encode_image(image), [box_region(*box) for box in boxes]))
    for box, segment in zip(boxes, segments, strict=True):
        masks, quality, _ = predictor.predict(box=np.array(box), multimask_output=True)
        assert len(quality) == 3
        assert segment.iou == pytest.approx(float(quality.max()), abs=1e-4)
        assert (rle.decode(segment.rle, 90, 120) != masks[quality.argmax()]).mean() < 1e-3
    assert [s.rle for s in segments] != [s.rle for s in first]  # the mask for clear prompts is none of the three


def test_stability_is_the_iou_of_the_masks_at_two_thresholds_of_the_full_logits() -> None:
    folder = weights_dir() / "sam"  # trained: random weights give logits near 0
    teacher = SamTeacher.load(str(folder))
    image, truth = render(make_scene(3))
    ys, xs = np.nonzero(truth[0])
    box = (float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))
    predictor = segment_anything.predictor.SamPredictor(load_sam(folder))
    predictor.set_image(image)
    logits, _, _ = predictor.predict(box=np.array(box), multimask_output=False, return_logits=True)
    (segment,) = teacher.segment(teacher.encode_image(image), [box_region(*box)])
    high, low = logits[0] > 1.0, logits[0] > -1.0
    assert 0 < (high & low).sum() < (high | low).sum()
    assert segment.stability == pytest.approx((high & low).sum() / (high | low).sum(), abs=2e-3)


def test_a_mask_without_pixels_is_an_answer_with_stability_0(sam_folder: Path) -> None:
    teacher = SamTeacher.load(str(sam_folder))
    teacher.sam.mask_decoder = Constant(-5.0)
    (segment,) = teacher.segment(teacher.encode_image(picture(40, 50)), [box_region(5, 5, 30, 30)])
    assert rle.area(segment.rle, 40, 50) == 0
    assert segment.stability == 0.0


def test_points_are_inside_and_missing_ones_are_ignored(sam_folder: Path) -> None:
    teacher = SamTeacher.load(str(sam_folder), prompt="points")
    embedding = teacher.encode_image(picture(100, 100))
    line = Region(((10.0, 10.0, 50.0, 10.0, 10.0, 10.0),))
    coordinates, labels = teacher._points(embedding, [box_region(20, 20, 80, 80), line])
    assert labels.tolist()[0] == [1, 1, 1]
    assert labels.tolist()[1][1:] == [-1, -1]
    scale = 128 / 100
    assert ((coordinates[0] > 20 * scale) & (coordinates[0] < 80 * scale)).all()
