import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitrail.nn.attention import Attention, attend, attention_kernel, attention_weights
from vitrail.nn.context import Context
from vitrail.nn.tokens import Tokens


def by_hand(
    attention: Attention, x: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation 1 head by head in float64, from the raw parameters."""
    weight, bias = attention.qkv.weight.double(), attention.qkv.bias.double()
    dim, heads = x.shape[-1], attention.num_heads
    width = dim // heads
    rows, mixed = [], []
    for head in range(heads):
        parts = []
        for which in range(3):
            start = which * dim + head * width
            parts.append(x.double() @ weight[start : start + width].T + bias[start : start + width])
        query, key, value = parts
        scores = query @ key.transpose(-2, -1) / math.sqrt(width)
        if mask is not None:
            scores = scores + mask[:, min(head, mask.shape[1] - 1)].double()
        rows.append(scores.softmax(-1))
        mixed.append(rows[-1] @ value)
    out = torch.cat(mixed, -1) @ attention.proj.weight.double().T + attention.proj.bias.double()
    return out, torch.stack(rows, 1)


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    return Attention(24, 3).eval()


@pytest.mark.parametrize("grad", [False, True], ids=["fused", "plain"])
def test_the_equation(attention, grad):
    x = torch.randn(2, 7, 24)
    with torch.set_grad_enabled(grad):
        out = attention(Tokens(x, (7, 1)))
    expected, _ = by_hand(attention, x)
    torch.testing.assert_close(out, expected.float(), atol=1e-5, rtol=1e-5)


def test_weights_are_those_of_the_equation_and_rows_can_be_chosen(attention):
    x = torch.randn(2, 7, 24)
    _, expected = by_hand(attention, x)
    full = attention.weights(Tokens(x, (7, 1)))
    torch.testing.assert_close(full, expected.float(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(full.sum(-1), torch.ones(2, 3, 7))
    some = attention.weights(Tokens(x, (7, 1)), queries=torch.tensor([4, 0]))
    torch.testing.assert_close(some, full[:, :, [4, 0]])


@pytest.mark.parametrize("kernel", ["fused", "plain", "blocks"])
def test_float_and_bool_masks_mean_the_same_in_all_kernels(attention, kernel):
    x = torch.randn(2, 5, 24)
    allowed = torch.rand(1, 1, 5, 5) > 0.4
    allowed |= torch.eye(5, dtype=torch.bool)
    additive = torch.zeros(1, 1, 5, 5).masked_fill(~allowed, float("-inf"))
    expected, _ = by_hand(attention, x, additive)
    with attention_kernel(kernel):
        for mask in (allowed, additive):
            out = attention(Tokens(x, (5, 1)), Context(mask=mask))
            torch.testing.assert_close(out, expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["fused", "plain", "blocks"])
def test_masks_of_some_repeat_for_the_others(attention, kernel):
    x, masks = torch.randn(6, 5, 24), torch.randn(3, 1, 5, 5)
    expected, rows = by_hand(attention, x, masks.repeat(2, 1, 1, 1))
    tokens, context = Tokens(x, (5, 1)), Context(mask=masks)
    with attention_kernel(kernel):
        torch.testing.assert_close(attention(tokens, context), expected.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention.weights(tokens, context), rows.float(), atol=1e-5, rtol=1e-5)


def test_a_bias_per_head_reaches_its_head(attention):
    x = torch.randn(1, 4, 24)
    bias = torch.randn(1, 3, 4, 4)
    expected, rows = by_hand(attention, x, bias)
    tokens = Tokens(x, (4, 1))
    torch.testing.assert_close(attention(tokens, Context(mask=bias)), expected.float(), atol=1e-5, rtol=1e-5)
    chosen = attention.weights(tokens, Context(mask=bias), torch.tensor([2]))
    torch.testing.assert_close(chosen, rows[:, :, [2]].float(), atol=1e-6, rtol=1e-5)


def test_the_kernel_follows_what_is_done_and_where(attention):
    x = torch.randn(1, 5, 24)
    with mock.patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as fused:
        with torch.no_grad():
            attention(Tokens(x, (5, 1)))
        attention(Tokens(x, (5, 1)))
        assert fused.call_count == 0
        long = torch.randn(1, 1, 1000, 4, requires_grad=True)
        attend(long, long, long)
        assert fused.call_count == 1
        with attention_kernel("fused"):
            attention(Tokens(x, (5, 1)))
        assert fused.call_count == 2


def test_a_compiled_model_holds_the_fused_kernel_and_no_blocks(attention):
    x = torch.randn(1, 5, 24)
    program = torch.export.export(attention, (Tokens(x, (5, 1)),)).graph_module.code
    assert "scaled_dot_product_attention" in program and "softmax" not in program


@pytest.mark.parametrize("block", [1, 7, 30, 61, 10_000], ids="{} scores".format)
@pytest.mark.parametrize("masked", [None, (1, 1), (2, 1), (1, 3), (2, 3)], ids=str)
def test_blocks_of_any_size_give_the_equation(monkeypatch, block, masked):
    torch.manual_seed(2)
    query, key, value = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)
    mask = None if masked is None else torch.randn(*masked, 5, 6)
    monkeypatch.setattr(f"{attend.__module__}.BLOCK", block)
    with attention_kernel("blocks"):
        mixed = attend(query, key, value, mask)
    scores = query.double() @ key.double().transpose(-2, -1) / 2 + (0 if mask is None else mask.double())
    torch.testing.assert_close(mixed, (scores.softmax(-1) @ value.double()).float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["plain", "blocks"])
def test_what_all_keys_share_costs_no_precision_in_bf16(kernel):
    torch.manual_seed(3)
    query, key, value = torch.randn(3, 1, 2, 64, 64).unbind(0)
    key = key + 20 * torch.randn(1, 2, 1, 64)
    low = [part.bfloat16() for part in (query, key, value)]
    exact = F.scaled_dot_product_attention(*(part.double() for part in low))
    with attention_kernel(kernel):
        error = (attend(*low).double() - exact).norm() / exact.norm()
    assert error < 0.01


def test_gradients_of_both_kernels_agree():
    torch.manual_seed(1)
    query, key, value = (torch.randn(2, 3, 6, 4, requires_grad=True) for _ in range(3))
    plain = torch.autograd.grad(attend(query, key, value).square().sum(), (query, key, value))
    fused = F.scaled_dot_product_attention(query, key, value)
    for ours, theirs in zip(plain, torch.autograd.grad(fused.square().sum(), (query, key, value)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_autocast_gives_the_float32_answer_to_bf16_rounding(attention):
    x = torch.randn(2, 9, 24)
    with torch.autocast("cpu", torch.bfloat16):
        low = attention(Tokens(x, (9, 1)))
    assert low.dtype == torch.bfloat16
    exact = attention(Tokens(x, (9, 1)))
    assert (low.float() - exact).norm() / exact.norm() < 0.02


def test_norms_of_queries_and_keys_bound_the_scores():
    torch.manual_seed(0)
    attention = Attention(16, 2, qk_norm=nn.LayerNorm)
    query, key, _ = attention.project(Tokens(1000 * torch.randn(1, 5, 16), (5, 1)), Context())
    assert query.norm(dim=-1).max() <= math.sqrt(8) + 1e-4
    assert key.norm(dim=-1).max() <= math.sqrt(8) + 1e-4


def test_dropout_of_weights_only_while_training():
    torch.manual_seed(0)
    attention = Attention(16, 2, attention_dropout=0.5)
    tokens = Tokens(torch.randn(1, 6, 16), (6, 1))
    assert not torch.equal(attention(tokens), attention(tokens))
    attention.eval()
    assert torch.equal(attention(tokens), attention(tokens))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="embed_dim 10 is not divisible by num_heads 3"):
        Attention(10, 3)


def test_weights_stay_float32_under_autocast(attention):
    with torch.autocast("cpu", torch.bfloat16):
        rows = attention.weights(Tokens(torch.randn(1, 4, 24), (4, 1)))
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.sum(-1), torch.ones(1, 3, 4), atol=1e-3, rtol=0)


def test_attention_weights_with_a_forbidden_key_give_it_nothing():
    query = torch.randn(1, 1, 2, 4)
    rows = attention_weights(query, query, torch.tensor([[[[True, False], [True, True]]]]))
    assert rows[0, 0, 0].tolist() == [1.0, 0.0]


def test_chosen_rows_cost_their_own_queries_and_no_values(attention):
    tokens = Tokens(torch.randn(2, 5, 24), (5, 1))
    with mock.patch.object(attention, "values") as values, mock.patch.object(attention.q_norm, "forward") as norm:
        norm.side_effect = lambda query: query
        rows = attention.weights(tokens, queries=torch.tensor([4, 0]))
    assert not values.called
    assert norm.call_args.args[0].shape[2] == 2
    torch.testing.assert_close(rows, attention.weights(tokens)[:, :, [4, 0]])
