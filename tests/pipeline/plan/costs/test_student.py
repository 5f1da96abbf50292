"""The student's parameters by formula are those of the real model."""

import pytest
import torch

from model.agevlm.configuration_agevlm import AgeVlmConfig, AgeVlmVisionConfig
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.errors import ConfigError
from model.stages import describe_stages
from pipeline.plan.costs.student import Student, student_of
from pipeline.plan.recipe import Recipe, load_recipe
from pipeline.training.flops import Sizes


def test_the_papers_student_has_its_published_size_without_any_weights() -> None:
    student = student_of(load_recipe("paper"))
    assert student.total == 1_682_671_808
    assert list(student.parameters().values()) == [196_227_264, 7_344_128, 243_286_016, 1_235_814_400]
    assert "published sizes of llama-3.2-1b" in student.origin["text"]


@pytest.mark.parametrize("architecture", ["convnext_atto", "convnext_large_mlp", "convnextv2_pico"])
@pytest.mark.parametrize(("kind", "tied"), [("layer", True), ("in_block", False)])
def test_the_counts_are_those_of_the_model(architecture: str, kind: str, tied: bool) -> None:
    text = AgeVlmConfig.paper().text_config
    text.tie_word_embeddings = tied
    width = {"convnext_atto": 320, "convnext_large_mlp": 1536, "convnextv2_pico": 512}[architecture]
    vision = AgeVlmVisionConfig(architecture=architecture, hidden_size=width)
    config = AgeVlmConfig(
        text_config=text, vision_config=vision, cross_attention=kind, cross_attention_layers=[1, 3],
        tie_word_embeddings=tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = AgeVlmForConditionalGeneration(config)
    modern = architecture.startswith("convnextv2")
    student = Student(Sizes.of(config), tied, layer_scale=not modern, response_norm=modern, origin={})
    for report in describe_stages(model):
        assert student.parameters() == report.total
        assert student.trainable(report.stage) == report.trainable


def test_the_miniature_recipes_student_is_read_from_its_weights() -> None:
    student = student_of(load_recipe("miniature"))
    assert student.total == 919_416
    assert student.sizes.cells == 64


def test_an_unknown_backbone_is_named() -> None:
    raw = load_recipe("miniature").model_dump(mode="json")
    raw["weights"]["text"] = "weights/my-own-model"
    with pytest.raises(ConfigError, match=r"weights\.text = 'weights/my-own-model' is not here.*config\.json"):
        student_of(Recipe.model_validate(raw))
