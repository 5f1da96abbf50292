"""torch.compile takes the whole model as one graph, with guidance, and gives the same loss and gradients."""

from typing import Any

import pytest
import torch

from model.agevlm.modeling_agevlm import AgeVlmForConditionalGeneration
from tests.model.agevlm.fixtures_tiny_models import guided_batch, tiny_model


def inputs_of(case: str) -> dict[str, Any]:
    inputs: dict[str, Any] = guided_batch()
    if case == "one image per marked row, no logits":
        has_image = torch.tensor([True, False, True])
        inputs["has_image"], inputs["return_logits"] = has_image, False
        inputs["pixel_values"] = inputs["pixel_values"][has_image]
        inputs["cell_mask"] &= has_image[:, None]
    if case == "text only":
        del inputs["pixel_values"], inputs["cell_mask"]
    return inputs


def losses_and_gradients(model: Any, parameters: AgeVlmForConditionalGeneration, inputs: Any) -> list[torch.Tensor]:
    parameters.zero_grad()
    out = model(**inputs)
    out.loss.backward()
    sums = [out.loss, out.lm_loss_sum, out.guidance_loss_sum, out.guided_rows, out.attention_mass_sum]
    return [*(s.detach().double() for s in sums), *(p.grad.clone() for p in parameters.parameters())]


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        ("layer", "guided"),
        ("in_block", "guided"),
        ("layer", "one image per marked row, no logits"),
        ("layer", "text only"),
    ],
)
def test_one_graph_with_guidance(kind: str, case: str) -> None:
    model, inputs = tiny_model(trained=True, cross_attention=kind).double().train(), inputs_of(case)
    eager = losses_and_gradients(model, model, inputs)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for one, other in zip(eager, losses_and_gradients(compiled, model, inputs), strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-13)
    assert int(eager[3]) == (0 if case == "text only" else 2)


@pytest.mark.system
@pytest.mark.parametrize("kind", ["layer", "in_block"])
def test_one_graph_through_the_compiler(kind: str) -> None:
    """Generated code rounds differently where the model itself works in fp32 (norms, rotary tables)."""
    model, inputs = tiny_model(trained=True, cross_attention=kind).double().train(), inputs_of("guided")
    eager = losses_and_gradients(model, model, inputs)
    compiled = torch.compile(model, fullgraph=True)
    for one, other in zip(eager, losses_and_gradients(compiled, model, inputs), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=2e-5)


def test_images_that_do_not_fit_their_rows_are_noticed_in_a_graph_too() -> None:
    inputs = inputs_of("one image per marked row, no logits")
    inputs["has_image"] = torch.tensor([True, True, True])
    with pytest.raises(RuntimeError, match="as many rows as there are images"):
        torch.compile(tiny_model().train(), fullgraph=True, backend="aot_eager")(**inputs)
