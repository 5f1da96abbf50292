"""Eq. 3: the averaged map and its gradient, the loss by hand, and inputs that could give NaN."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.agevlm import guidance
from model.agevlm.guidance import GuidancePlan, guidance_loss, query_averaged_map, select_guided_rows

B, H, K, T, S, E = 3, 4, 2, 7, 10, 5


def naive_map(q: torch.Tensor, k: torch.Tensor, plan: GuidancePlan, scaling: float) -> torch.Tensor:
    """The plain way, by autograd: all weights at once."""
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).transpose(2, 3) * scaling
    for row, cells in zip(plan.rows, plan.cells or (), strict=bool(plan.cells)):
        hidden = torch.ones(k.shape[2], dtype=torch.bool)
        hidden[cells] = False
        scores = torch.where(hidden & (torch.arange(len(q))[:, None, None, None] == row), float("-inf"), scores)
    weights = scores.softmax(-1)
    rows = [weights[row][:, tokens].mean((0, 1)) for row, tokens in zip(plan.rows, plan.tokens, strict=True)]
    return torch.stack(rows) if rows else weights.new_zeros(0, k.shape[2])


def setup(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, GuidancePlan]:
    draw = torch.Generator().manual_seed(seed)
    q = torch.randn(B, H, T, E, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    k = torch.randn(B, K, S, E, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    mask = torch.zeros(2, S, dtype=torch.bool)
    mask[:, 2:5] = True
    plan = GuidancePlan((0, 2), (torch.tensor([1, 2, 5]), torch.tensor([0])), mask, (torch.arange(7), torch.arange(S)))
    return q, k, plan


def test_map_and_gradient_equal_the_naive_way() -> None:
    q, k, plan = setup()
    grads = []
    for way in (naive_map, query_averaged_map):
        got = way(q, k, plan, 0.4)
        loss, _ = guidance_loss(got, plan.mask_GS)
        grads.append((got.detach(), *torch.autograd.grad(loss.sum(), (q, k))))
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("chunk", [1, 30, 1 << 20])
@pytest.mark.parametrize("normalisation", ["sum", "max"])
def test_gradcheck_in_fp64(chunk: int, normalisation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "CHUNK_ELEMENTS", chunk)
    q, k, plan = setup()

    def loss(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return guidance_loss(query_averaged_map(q, k, plan, 0.4), plan.mask_GS, normalisation)[0]

    assert torch.autograd.gradcheck(loss, (q, k))


def test_rows_sum_to_one_and_masked_cells_are_exactly_zero() -> None:
    q, k, plan = setup()
    got = query_averaged_map(q, k, plan, 0.4)
    assert torch.allclose(got.sum(-1), torch.ones(2, dtype=got.dtype))
    assert (got[0, 7:] == 0).all()
    assert (got[1] > 0).all()


def test_unguided_rows_and_other_tokens_get_no_gradient() -> None:
    q, k, plan = setup()
    guidance_loss(query_averaged_map(q, k, plan, 0.4), plan.mask_GS)[0].sum().backward()
    assert q.grad is not None
    assert k.grad is not None
    assert (q.grad[1] == 0).all()
    assert (k.grad[1] == 0).all()
    assert (q.grad[0][:, [0, 3, 4, 6]] == 0).all()
    assert (q.grad[0][:, [1, 2, 5]] != 0).any()


def test_half_precision_is_computed_in_fp32() -> None:
    q, k, plan = setup(dtype=torch.bfloat16)
    got = query_averaged_map(q, k, plan, 0.4)
    assert got.dtype == torch.float32
    wide = query_averaged_map(q.float(), k.float(), plan, 0.4)
    assert torch.equal(got, wide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(query_averaged_map(q.float(), k.float(), plan, 0.4), wide)
    guidance_loss(got, plan.mask_GS)[0].sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.bfloat16
    assert torch.isfinite(q.grad).all()


def test_nothing_of_heads_x_tokens_x_cells_is_saved_for_backward() -> None:
    q, k, plan = setup()
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        query_averaged_map(q, k, plan, 0.4)
    assert sorted(saved) == sorted([q.numel(), k.numel()])  # what attention keeps anyway
    saved.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        naive_map(q, k, plan, 0.4)
    assert max(saved) >= B * H * T * S


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
    q, k, _ = setup(dtype=torch.float32)
    far = (q.detach() * scale).requires_grad_()  # softmax saturates: masks hold no attention at all
    masks = torch.zeros(4, S, dtype=torch.bool)  # empty, one cell, full, one other cell
    masks[1, 3], masks[2], masks[3, 9] = True, True, True
    plan = GuidancePlan((0, 1, 2, 0), tuple(torch.arange(T) for _ in range(4)), masks)
    loss, mass = guidance_loss(query_averaged_map(far, k, plan, 1.0), masks, normalisation)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(mass).all()
    assert loss[0] == 0
    assert mass[0] == 0
    for grad in (far.grad, k.grad):
        assert grad is not None
        assert torch.isfinite(grad).all()


def test_no_guided_row_is_an_empty_map_with_zero_gradient() -> None:
    q, k, _ = setup()
    plan = GuidancePlan((), (), torch.zeros(0, S, dtype=torch.bool))
    got = query_averaged_map(q, k, plan, 0.4)
    assert got.shape == (0, S)
    loss, mass = guidance_loss(got, plan.mask_GS)
    assert loss.sum() == 0
    assert mass.sum() == 0
    loss.sum().backward()
    assert q.grad is not None
    assert (q.grad == 0).all()


def test_only_usable_rows_count() -> None:
    everything = torch.ones(6, T, dtype=torch.bool)
    query, mask = everything.clone(), torch.ones(6, S, dtype=torch.bool)
    guided, has_image = torch.ones(6, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    cells = torch.ones(6, S, dtype=torch.bool)
    query[1] = False  # no query token
    mask[2] = False  # empty mask
    guided[3] = False
    has_image[4] = False
    mask[5], cells[5] = False, False  # a mask on padding only
    mask[5, 0], cells[5, 1] = True, True
    plan = select_guided_rows(guided, mask, query, has_image, cells)
    assert plan.rows == (0,)
    assert torch.equal(plan.tokens[0], torch.arange(T))
    assert plan.cells is not None
    assert torch.equal(plan.cells[0], torch.arange(S))
    assert select_guided_rows(guided & False, mask, query, has_image, None).rows == ()


@given(st.integers(0, 10_000), st.integers(1, S - 1), st.sampled_from([1, 17, 1 << 20]))
@settings(max_examples=30, deadline=None)
def test_loss_is_mass_and_floor(seed: int, cells: int, chunk: int) -> None:
    q, k, plan = setup(seed)
    mask = torch.zeros(2, S, dtype=torch.bool)
    mask[:, :cells] = True
    before = guidance.CHUNK_ELEMENTS
    guidance.CHUNK_ELEMENTS = chunk
    try:
        got = query_averaged_map(q, k, plan, 0.4)
    finally:
        guidance.CHUNK_ELEMENTS = before
    loss, mass = guidance_loss(got, mask)
    floor = math.log((cells + 1) / 2)
    assert torch.allclose(mass, torch.exp(-(loss - floor)), rtol=1e-12)
    assert (loss >= floor - 1e-12).all()


def test_unknown_normalisation_is_named() -> None:
    with pytest.raises(ValueError, match="'mean'"):
        guidance_loss(torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool), "mean")
