"""SAM as a teacher, against segment-anything's own predictor and a geometry oracle."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segment_anything.predictor
import torch
from segment_anything import sam_model_registry

from model.errors import ConfigError
from model.miniature.sam import SamSizes, build_sam, load_sam
from model.miniature.world import make_scene, render
from model.teachers import rle
from model.teachers import sam as teacher_module
from model.teachers.polygons import Region
from model.teachers.sam import SamTeacher, checkpoint_type, open_checkpoint


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
def test_prompts_do_not_see_each_other(sam_folder: Path, prompt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = SamTeacher.load(str(sam_folder), prompt=prompt)
    embedding = teacher.encode_image(picture(80, 120))
    regions = [box_region(x, 10, x + 40, 60) for x in (5.0, 30.0, 60.0)]
    together = list(teacher.segment(embedding, regions))
    monkeypatch.setattr(teacher_module, "PROMPTS_AT_ONCE", 1)
    alone = list(teacher.segment(embedding, regions))
    for a, b in zip(together, alone, strict=True):
        assert a.iou == pytest.approx(b.iou, abs=1e-5)
        union = rle.area(rle.union([a.rle, b.rle], 80, 120), 80, 120)
        assert union - rle.area(rle.intersection([a.rle, b.rle], 80, 120), 80, 120) <= 10


def test_points_are_inside_and_missing_ones_are_ignored(sam_folder: Path) -> None:
    teacher = SamTeacher.load(str(sam_folder), prompt="points")
    embedding = teacher.encode_image(picture(100, 100))
    line = Region(((10.0, 10.0, 50.0, 10.0, 10.0, 10.0),))
    coordinates, labels = teacher._points(embedding, [box_region(20, 20, 80, 80), line])
    assert labels.tolist()[0] == [1, 1, 1]
    assert labels.tolist()[1][1:] == [-1, -1]
    scale = 128 / 100
    assert ((coordinates[0] > 20 * scale) & (coordinates[0] < 80 * scale)).all()


def test_the_kind_of_a_published_checkpoint_is_told_by_its_shapes() -> None:
    for name in ("vit_h", "vit_l", "vit_b"):
        with torch.device("meta"):
            state = sam_model_registry[name]().state_dict()
        assert checkpoint_type(state) == name
    with pytest.raises(ConfigError, match="pos_embed"):
        checkpoint_type({})
    with pytest.raises(ConfigError, match="width 64"):
        checkpoint_type(build_sam(SamSizes()).state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_file_is_opened_without_unpickling_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The published layout is a bare state dict; here with tiny tensors under the registry's name for their width."""
    from safetensors.torch import save_file

    torch.manual_seed(1)
    tiny = build_sam(SamSizes())
    path = tmp_path / f"sam{suffix}"
    torch.save(tiny.state_dict(), path) if suffix == ".pth" else save_file(tiny.state_dict(), path)
    monkeypatch.setitem(teacher_module.TYPES, 64, "tiny")
    monkeypatch.setitem(sam_model_registry, "tiny", lambda: build_sam(SamSizes()))
    teacher = SamTeacher.load(str(path))
    image, _ = render(make_scene(1))
    expected = SamTeacher(tiny)
    region = box_region(20, 20, 90, 90)
    assert list(teacher.segment(teacher.encode_image(image), [region])) == list(
        expected.segment(expected.encode_image(image), [region])
    )


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/nonexistent").touch, ())


def test_bad_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        SamTeacher.load(str(tmp_path / "none.pth"))
    torn = tmp_path / "torn.pth"
    torn.write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_checkpoint(torn)
    evil = tmp_path / "evil.pth"
    torch.save({"image_encoder.pos_embed": Evil()}, evil)
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_checkpoint(evil)


def test_a_damaged_folder_is_one_message(sam_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((sam_folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((sam_folder / "model.safetensors").read_bytes()[:-50])
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged"):
        SamTeacher.load(str(tmp_path))
