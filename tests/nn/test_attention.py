import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitrail.nn.attention import Attention, attend, attention_weights
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


@pytest.mark.parametrize("grad", [False, True], ids=["fused", "plain"])
def test_float_and_bool_masks_mean_the_same_in_both_kernels(attention, grad):
    x = torch.randn(2, 5, 24)
    allowed = torch.rand(1, 1, 5, 5) > 0.4
    allowed |= torch.eye(5, dtype=torch.bool)
    additive = torch.zeros(1, 1, 5, 5).masked_fill(~allowed, float("-inf"))
    expected, _ = by_hand(attention, x, additive)
    with torch.set_grad_enabled(grad):
        for mask in (allowed, additive):
            out = attention(Tokens(x, (5, 1)), Context(mask=mask))
            torch.testing.assert_close(out, expected.float(), atol=1e-5, rtol=1e-5)


def test_a_bias_per_head_reaches_its_head(attention):
    x = torch.randn(1, 4, 24)
    bias = torch.randn(1, 3, 4, 4)
    expected, rows = by_hand(attention, x, bias)
    tokens = Tokens(x, (4, 1))
    torch.testing.assert_close(attention(tokens, Context(mask=bias)), expected.float(), atol=1e-5, rtol=1e-5)
    chosen = attention.weights(tokens, Context(mask=bias), torch.tensor([2]))
    torch.testing.assert_close(chosen, rows[:, :, [2]].float(), atol=1e-6, rtol=1e-5)


def test_inference_uses_the_fused_kernel_and_short_training_on_a_cpu_does_not(attention):
    x = torch.randn(1, 5, 24)
    with mock.patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as fused:
        with torch.no_grad():
            attention(Tokens(x, (5, 1)))
        assert fused.call_count == 1
        attention(Tokens(x, (5, 1)))
        assert fused.call_count == 1
        long = torch.randn(1, 1, 1000, 4, requires_grad=True)
        attend(long, long, long)
        assert fused.call_count == 2


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
