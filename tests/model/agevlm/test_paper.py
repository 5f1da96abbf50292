"""The paper's configuration, counted line by line on the meta device: 1,682,671,808 parameters."""

import pytest
import torch

from model.agevlm.configuration_agevlm import AgeVlmConfig, AgeVlmVisionConfig
from model.agevlm.cross_attention import CrossAttentionBlock, CrossAttentionLayer
from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from model.stage_table import PARTS
from model.stages import describe_stages


@pytest.fixture(scope="module")
def paper() -> AgeVlmForConditionalGeneration:
    with torch.device("meta"):
        return AgeVlmForConditionalGeneration(AgeVlmConfig.paper())


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_every_part_of_the_papers_model(paper: AgeVlmForConditionalGeneration) -> None:
    width, inner, keys, vocabulary = 2048, 8192, 8 * 64, 128256
    attention = width * width + 2 * width * keys + width * width  # q, k and v, o
    layer = attention + 3 * width * inner + 2 * width  # SwiGLU's three matrices, two norms
    assert layer == 60_821_504
    language = paper.model.language_model
    cross = [m for m in language.layers if isinstance(m, CrossAttentionLayer)]
    plain = [m for m in language.layers if not isinstance(m, CrossAttentionLayer)]
    assert [count(m) for m in cross] == [layer] * 4
    assert [count(m) for m in plain] == [layer] * 16
    llama = vocabulary * width + 16 * layer + width  # tied embedding, layers, final norm
    assert llama == 1_235_814_400
    assert count(language) == llama + 4 * layer
    assert paper.lm_head.weight is language.embed_tokens.weight

    trunk = paper.model.vision_tower.trunk
    stem = 3 * 4 * 4 * 192 + 192 + 2 * 192
    stages, depths, widths = [], (3, 3, 27, 3), (192, 384, 768, 1536)
    for number, (depth, c) in enumerate(zip(depths, widths, strict=True)):
        # 7x7 depthwise, LayerNorm, two linear layers of four times the width, layer scale
        block = 49 * c + c + 2 * c + (c * 4 * c + 4 * c) + (4 * c * c + c) + c
        before = widths[number - 1]
        down = 2 * before + 2 * 2 * before * c + c if number else 0
        stages.append(down + depth * block)
    assert [count(stage) for stage in trunk.stages] == stages
    assert stages[3] == 61_612_032
    assert count(paper.model.vision_tower) == stem + sum(stages) == 196_227_264

    adapter = 1536 * width + width + width * width + width
    assert count(paper.model.adapter) == adapter == 7_344_128
    assert count(paper) == llama + 4 * layer + stem + sum(stages) + adapter == 1_682_671_808


def test_its_shapes_and_positions(paper: AgeVlmForConditionalGeneration) -> None:
    config = paper.config
    assert config.vision_config.num_cells == 576
    assert len(paper.model.language_model.layers) == 20
    where = [i for i, m in enumerate(paper.model.language_model.layers) if isinstance(m, CrossAttentionLayer)]
    assert where == config.cross_attention_layers == [2, 7, 12, 17]
    assert config.self_attention_positions() == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14, 15, 16, 18, 19]
    own = [m.self_attn.layer_idx for m in paper.model.language_model.layers if hasattr(m, "self_attn")]
    assert own == list(range(16))


def test_its_stages_in_numbers(paper: AgeVlmForConditionalGeneration) -> None:
    trained = {report.stage.name: report.trainable for report in describe_stages(paper)}
    assert list(trained["stage1"].values()) == [0, 7_344_128, 4 * 60_821_504, 0]
    assert trained["stage2"][PARTS[0]] == trained["stage3"][PARTS[0]] == 61_612_032
    assert sum(trained["stage4"].values()) == sum(trained["stage4_lm"].values()) == 1_682_671_808


def test_the_other_reading_of_eq_2_puts_it_inside_the_blocks() -> None:
    with torch.device("meta"):
        model = AgeVlmForConditionalGeneration(AgeVlmConfig.paper(cross_attention="in_block"))
    blocks = model.model.language_model.layers
    assert len(blocks) == 16
    assert [i for i, m in enumerate(blocks) if isinstance(m, CrossAttentionBlock)] == [2, 7, 12]
    module = 2 * 2048 * 2048 + 2 * 2048 * 512 + 2048  # attention and one norm, no MLP of its own
    assert count(model) == 1_682_671_808 - 4 * 60_821_504 + 3 * module


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cross_attention": "gated"}, r"cross_attention is 'gated'; choose one of 'layer', 'in_block'"),
        ({"cross_attention_layers": [2, 20]}, r"expanded stack has 18 layers"),
        ({"cross_attention_layers": [7, 2]}, r"ascending"),
        ({"cross_attention": "in_block", "cross_attention_layers": [2, 17]}, r"text backbone has 16 layers"),
        ({"cross_attention_layers": []}, r"cross_attention_layers is \[\]; give at least one"),
        ({"init": "ones"}, r"init is 'ones'"),
        ({"guidance_normalisation": "mean"}, r"guidance_normalisation is 'mean'"),
        ({"guidance_reduction": "max"}, r"guidance_reduction is 'max'"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AgeVlmConfig.paper(**fields)


def test_a_wrong_encoder_is_named() -> None:
    with pytest.raises(ValueError, match="image_size is 700"):
        AgeVlmVisionConfig(image_size=700)
    for vision, message in (
        ({"architecture": "no_such_net"}, "no_such_net"),
        ({"architecture": "resnet18"}, "not a ConvNeXt"),
        ({"architecture": "convnext_atto", "hidden_size": 1}, "hidden_size is 1, but stage 4.*has 320"),
        ({"architecture": "convnext_atto", "hidden_size": 320, "stride": 16}, "stride is 16"),
    ):
        with torch.device("meta"), pytest.raises(ValueError, match=message):
            AgeVlmForConditionalGeneration(AgeVlmConfig.paper(vision_config=AgeVlmVisionConfig(**vision)))
    with torch.device("meta"), pytest.raises(ValueError, match="adapter_activation is 'swoosh'"):
        AgeVlmForConditionalGeneration(AgeVlmConfig.paper(adapter_activation="swoosh"))
