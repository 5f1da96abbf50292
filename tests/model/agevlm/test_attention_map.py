"""A_l^q: the lean map and its gradient equal the naive ones, whatever the rows, chunks and number formats."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.agevlm import attention_map
from model.agevlm.attention_map import MapQuery, naive_query_averaged_map, query_averaged_map
from model.agevlm.guidance import guidance_loss

B, H, K, T, S, E = 3, 4, 2, 7, 10, 5
TARGET = torch.zeros(B, S, dtype=torch.bool)
TARGET[:, 2:5] = True
FORMS = (naive_query_averaged_map, query_averaged_map)


def setup(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, MapQuery]:
    """Row 0 has three query tokens and 7 of 10 cells, row 1 has no query token, row 2 one and all cells."""
    draw = torch.Generator().manual_seed(seed)
    q = torch.randn(B, H, T, E, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    k = torch.randn(B, K, S, E, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    tokens, cells = torch.zeros(B, T, dtype=torch.bool), torch.ones(B, S, dtype=torch.bool)
    tokens[0, [1, 2, 5]], tokens[2, 0], cells[0, 7:] = True, True, False
    return q, k, MapQuery.from_masks(tokens, cells, S)


def test_map_and_gradient_equal_the_naive_form() -> None:
    q, k, query = setup()
    results = []
    for form in FORMS:
        got = form(q, k, query, 0.4)
        loss, _ = guidance_loss(got, TARGET & query.query_mask_BT.any(-1)[:, None])
        results.append((got.detach(), *torch.autograd.grad(loss.sum(), (q, k))))
    for naive, lean in zip(*results, strict=True):
        assert torch.allclose(naive, lean, rtol=1e-12, atol=1e-14)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_masks_and_chunks_give_the_naive_form(data: st.DataObject) -> None:
    q, k, _ = setup(data.draw(st.integers(0, 10_000)))
    bits = st.lists(st.booleans(), min_size=B * T, max_size=B * T)
    tokens = torch.tensor(data.draw(bits)).view(B, T)
    cells = None
    if data.draw(st.booleans()):
        cells = torch.tensor(data.draw(st.lists(st.booleans(), min_size=B * S, max_size=B * S))).view(B, S)
        cells[:, data.draw(st.integers(0, S - 1))] = True  # at least one in each row, as the model sees to
    query = MapQuery.from_masks(tokens, cells, S)
    weights = torch.randn(B, S, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_map, "CHUNK_ELEMENTS", data.draw(st.sampled_from([1, 17, 1 << 20])))
        maps = [form(q, k, query, 0.4) for form in FORMS]
        gradients = [torch.autograd.grad((got * weights).sum(), (q, k)) for got in maps]
    for naive, lean in zip((maps[0], *gradients[0]), (maps[1], *gradients[1]), strict=True):
        assert torch.allclose(naive, lean, rtol=1e-10, atol=1e-14)
    assert torch.allclose(maps[1].sum(-1), tokens.any(-1).double())


@pytest.mark.parametrize("chunk", [1, 30, 1 << 20])
@pytest.mark.parametrize("normalisation", ["sum", "max"])
def test_gradcheck_in_fp64(chunk: int, normalisation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_map, "CHUNK_ELEMENTS", chunk)
    q, k, query = setup()
    target = TARGET & query.query_mask_BT.any(-1)[:, None]

    def loss(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return guidance_loss(query_averaged_map(q, k, query, 0.4), target, normalisation)[0]

    assert torch.autograd.gradcheck(loss, (q, k))


def test_the_operator_passes_torchs_own_checks() -> None:
    """Schema, fake tensors, autograd registration and AOT dispatch, with dynamic shapes too."""
    for cells in (True, False):
        q, k, query = setup()
        arguments = (q, k, query.tokens_BT, query.cells_BS if cells else None, query.sizes_B2, 0.4)
        torch.library.opcheck(attention_map._averaged_map, arguments)


def test_rows_sum_to_one_and_masked_cells_are_exactly_zero() -> None:
    q, k, query = setup()
    got = query_averaged_map(q, k, query, 0.4)
    assert torch.allclose(got.sum(-1), torch.tensor([1.0, 0.0, 1.0], dtype=got.dtype))
    assert (got[0, 7:] == 0).all()
    assert (got[2] > 0).all()


def test_rows_without_a_query_and_other_tokens_get_no_gradient() -> None:
    q, k, query = setup()
    query_averaged_map(q, k, query, 0.4)[:, 2].sum().backward()
    assert q.grad is not None
    assert k.grad is not None
    assert (q.grad[1] == 0).all()
    assert (k.grad[1] == 0).all()
    assert (q.grad[0][:, [0, 3, 4, 6]] == 0).all()
    assert (q.grad[0][:, [1, 2, 5]] != 0).any()


def test_half_precision_is_computed_in_fp32() -> None:
    q, k, query = setup(dtype=torch.bfloat16)
    got = query_averaged_map(q, k, query, 0.4)
    assert got.dtype == torch.float32
    wide = query_averaged_map(q.float(), k.float(), query, 0.4)
    assert torch.equal(got, wide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(query_averaged_map(q.float(), k.float(), query, 0.4), wide)
    got[:, 2].sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.bfloat16
    assert torch.isfinite(q.grad).all()


def test_nothing_of_heads_x_tokens_x_cells_is_saved_for_backward() -> None:
    q, k, query = setup()
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        query_averaged_map(q, k, query, 0.4)
    kept = [t.numel() for t in saved if t.is_floating_point()]
    assert sorted(kept) == sorted([q.numel(), k.numel()])  # what attention keeps anyway
    assert max(t.numel() for t in saved if not t.is_floating_point()) == max(B * T, B * S)  # positions
    saved.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        naive_query_averaged_map(q, k, query, 0.4)
    assert max(t.numel() for t in saved) >= B * H * T * S


def test_two_copies_of_the_code_are_two_operators() -> None:
    """An exported folder brings its own copy into a process that may have another one."""
    assert attention_map.NAMESPACE == "model_agevlm_attention_map"
    assert attention_map._averaged_map._qualname.startswith(attention_map.NAMESPACE + "::")
