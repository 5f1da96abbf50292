"""Eq. 3: the loss by hand, the rows that count, and inputs that could give NaN."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.agevlm.attention_map import MapQuery, query_averaged_map
from model.agevlm.guidance import guidance_loss, rows_that_count

T, S = 7, 10


def test_by_hand_sum() -> None:
    # Mass 0.75 in a mask of two cells: dice = 2 * 0.75 / (2 + 1) = 0.5.
    share = torch.tensor([[0.5, 0.25, 0.25, 0.0]])
    loss, mass = guidance_loss(share, torch.tensor([[True, True, False, False]]))
    assert loss.item() == pytest.approx(math.log(2))
    assert mass.item() == pytest.approx(0.75)
    # The whole paper in one line: L = -log(mass) + log((k + 1) / 2).
    assert loss.item() == pytest.approx(-math.log(0.75) + math.log(3 / 2))


def test_by_hand_max() -> None:
    # P / max = [1, .5, .5, 0]: dice = 2 * 1.5 / (2 + 2) = 0.75; a map that is the mask has no loss at all.
    share = torch.tensor([[0.5, 0.25, 0.25, 0.0]])
    loss, mass = guidance_loss(share, torch.tensor([[True, True, False, False]]), "max")
    assert loss.item() == pytest.approx(-math.log(0.75))
    assert mass.item() == pytest.approx(0.75)
    perfect, _ = guidance_loss(torch.tensor([[0.5, 0.5, 0.0, 0.0]]), torch.tensor([[True, True, False, False]]), "max")
    assert perfect.item() == pytest.approx(0, abs=1e-6)


def test_one_cell_mask_has_floor_zero_and_a_full_mask_no_gradient() -> None:
    one, _ = guidance_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    assert one.item() == pytest.approx(0, abs=1e-6)
    logits = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    loss, mass = guidance_loss(logits.softmax(-1), torch.ones(1, 6, dtype=torch.bool))
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(7 / 2))
    assert mass.item() == pytest.approx(1)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12


@pytest.mark.parametrize("normalisation", ["sum", "max"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_never_nan(normalisation: str, scale: float) -> None:
    draw = torch.Generator().manual_seed(0)
    q = (torch.randn(5, 4, T, 5, generator=draw) * scale).requires_grad_()  # softmax saturates: masks hold nothing
    k = torch.randn(5, 2, S, 5, generator=draw).requires_grad_()
    masks = torch.zeros(5, S, dtype=torch.bool)  # empty, one cell, full, one other cell, empty
    masks[1, 3], masks[2], masks[3, 9] = True, True, True
    tokens = torch.ones(5, T, dtype=torch.bool)
    tokens[4] = False  # a map of zeros
    maps = query_averaged_map(q, k, MapQuery.from_masks(tokens, None, S), 1.0)
    maps.retain_grad()
    loss, mass = guidance_loss(maps, masks, normalisation)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(mass).all()
    assert loss[[0, 4]].tolist() == mass[[0, 4]].tolist() == [0, 0]
    for grad in (q.grad, k.grad, maps.grad):
        assert grad is not None
        assert torch.isfinite(grad).all()


def test_without_a_row_that_counts_there_is_no_loss_and_no_gradient() -> None:
    q, k = torch.randn(3, 4, T, 5, requires_grad=True), torch.randn(3, 2, S, 5)
    nothing = torch.zeros(3, T, dtype=torch.bool)
    maps = query_averaged_map(q, k, MapQuery.from_masks(nothing, None, S), 1.0)
    loss, mass = guidance_loss(maps, torch.zeros(3, S, dtype=torch.bool))
    assert loss.sum() == mass.sum() == 0
    loss.sum().backward()
    assert q.grad is not None
    assert (q.grad == 0).all()


def test_only_usable_rows_count() -> None:
    query, mask = torch.ones(6, T, dtype=torch.bool), torch.ones(6, S, dtype=torch.bool)
    guided, has_image = torch.ones(6, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    cells = torch.ones(6, S, dtype=torch.bool)
    query[1] = False  # no query token
    mask[2] = False  # empty mask
    guided[3] = False
    has_image[4] = False
    mask[5], cells[5] = False, False  # a mask on padding only
    mask[5, 0], cells[5, 1] = True, True
    target, tokens = rows_that_count(mask, query, guided, has_image, cells)
    only_first = torch.tensor([True] + [False] * 5)
    assert torch.equal(target, only_first[:, None].expand(6, S))
    assert torch.equal(tokens, only_first[:, None].expand(6, T))
    target, tokens = rows_that_count(mask, query, None, None, None)
    assert target.any(-1).tolist() == tokens.any(-1).tolist() == [True, False, False, True, True, True]


@given(st.integers(0, 10_000), st.integers(1, S - 1))
@settings(max_examples=30, deadline=None)
def test_loss_is_mass_and_floor(seed: int, cells: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, S, generator=draw, dtype=torch.float64).softmax(-1)
    mask = torch.zeros(2, S, dtype=torch.bool)
    mask[:, :cells] = True
    loss, mass = guidance_loss(maps, mask)
    floor = math.log((cells + 1) / 2)
    assert torch.allclose(mass, torch.exp(-(loss - floor)), rtol=1e-12)
    assert (loss >= floor - 1e-12).all()


def test_unknown_normalisation_is_named() -> None:
    with pytest.raises(ValueError, match="'mean'"):
        guidance_loss(torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool), "mean")
