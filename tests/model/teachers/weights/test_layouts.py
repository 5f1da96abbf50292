"""The computed tensors of SAM and Florence-2 are those of the libraries' own classes."""

import dataclasses
import json

import pytest
import torch
from segment_anything import sam_model_registry
from transformers import Florence2Config, Florence2ForConditionalGeneration

from model.errors import ConfigError
from model.miniature.florence import build_model, build_processor
from model.miniature.sam import SamSizes, build_sam
from model.teachers.weights.florence_layout import TIED, florence_tensors
from model.teachers.weights.sam_layout import OFFICIAL, Shapes, sam_tensors, shape_of


def shapes(model: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_published_sam(name: str) -> None:
    with torch.device("meta"):
        assert sam_tensors(OFFICIAL[name]) == shapes(sam_model_registry[name]())


def test_a_sam_of_any_size() -> None:
    sizes = SamSizes(encoder_depth=2, global_attention=(0,), prompt_dim=64, decoder_depth=1, iou_head_dim=32)
    config = json.loads(json.dumps(dataclasses.asdict(sizes)))
    assert sam_tensors(shape_of(config)) == shapes(build_sam(sizes))
    for name, wrong in (("encoder_dim", None), ("encoder_depth", 10**9), ("image_size", -1), ("prompt_dim", "x")):
        with pytest.raises(ConfigError, match=rf"sizes of a SAM \({name}\)"):
            shape_of({**config, name: wrong})


@pytest.mark.parametrize("vision", [{}, {"qkv_bias": False, "depths": [1, 2, 3, 1], "max_position_embeddings": 9}])
def test_a_florence_of_any_size(vision: dict[str, object]) -> None:
    config = Florence2Config(vision_config=vision, text_config={"model_type": "bart", "encoder_layers": 3})
    with torch.device("meta"):
        expected = shapes(Florence2ForConditionalGeneration(config))
    assert florence_tensors(config.to_dict()) == {n: s for n, s in expected.items() if n not in TIED[1:]}


def test_the_miniature_florence() -> None:
    model = build_model(build_processor())
    assert florence_tensors(model.config.to_dict()) == {n: s for n, s in shapes(model).items() if n not in TIED[1:]}


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("text_config", "encoder_layers", 10**9),
        ("text_config", "encoder_layers", 2.5),
        ("text_config", "d_model", "wide"),
        ("vision_config", "depths", [10**6, 1, 1, 1]),
        ("vision_config", "depths", 3),
        ("vision_config", "patch_size", [7]),
    ],
)
def test_an_impossible_size_is_named(part: str, field: str, value: object) -> None:
    config: dict[str, dict[str, object]] = {"vision_config": {}, "text_config": {}}
    config[part][field] = value
    with pytest.raises(ConfigError, match=rf"config\.json: {part}"):
        florence_tensors(config)
