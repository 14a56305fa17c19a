"""Attention by the kernels that are built on the machine, to bf16's rounding; what they cannot do is done by torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.speed.kernels import exact, joint, off, runs
from vitrail.nn.attention import attend, attention_kernel
from vitrail.speed.native import native


@runs
@pytest.mark.parametrize("tokens", [1, 2, 5, 6, 7, 15, 16, 17, 31, 49, 64, 65, 113, 128, 197])
@pytest.mark.parametrize("dim", [16, 32, 48, 64, 80, 128])
def test_every_length_and_width(tokens: int, dim: int) -> None:
    query, key, value = joint(2, 3, tokens, dim)
    found = native().attention(query, key, value, None)
    assert found.dtype == torch.bfloat16 and found.shape == query.shape
    # Weights and result are rounded to 8 bits; scores are not.
    assert off(found, exact(query, key, value)) < 0.004
    assert found.transpose(1, 2).is_contiguous()


@runs
@pytest.mark.parametrize(("queries", "keys"), [(1, 300), (7, 64), (300, 1), (64, 33), (200, 1500)])
def test_as_many_queries_as_you_like(queries: int, keys: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(1, 2, queries, 64).bfloat16()
    key, value = torch.randn(2, 1, 2, keys, 64).bfloat16().unbind(0)
    assert off(native().attention(query, key, value, None), exact(query, key, value)) < 0.004


@runs
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 50), (2, 1, 1, 50), (1, 3, 50, 50), (2, 3, 50, 50), (1, 1, 50, 1)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_biases_reach_their_scores(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    query, key, value = joint(2, 3, 50, 32)
    bias = (2 * torch.randn(shape)).to(dtype)
    assert off(native().attention(query, key, value, bias), exact(query, key, value, bias)) < 0.004


@runs
def test_a_bias_may_lie_in_memory_as_it_likes() -> None:
    query, key, value = joint(2, 3, 20, 32)
    bias = torch.randn(1, 3, 20, 20).transpose(-2, -1)
    assert off(native().attention(query, key, value, bias), exact(query, key, value, bias)) < 0.004


@runs
def test_biases_of_some_repeat_for_the_others() -> None:
    query, key, value = joint(6, 3, 20, 32)
    bias = torch.randn(3, 3, 20, 20)
    found = native().attention(query, key, value, bias)
    assert off(found, exact(query, key, value, bias.repeat(2, 1, 1, 1))) < 0.004


@runs
def test_what_is_shut_out_counts_for_nothing() -> None:
    query, key, value = joint(1, 2, 40, 32)
    bias = torch.zeros(1, 1, 1, 40)
    bias[..., 23:] = float("-inf")
    found = native().attention(query, key, value, bias)
    assert off(found, exact(query, key[:, :, :23], value[:, :, :23])) < 0.004
    assert native().attention(query, key, value, torch.full_like(bias, float("-inf"))).isnan().all()


@runs
def test_numbers_gone_wrong_are_not_hidden() -> None:
    query, key, value = joint(1, 2, 20, 32)
    key[0, 1, 3, 0] = float("nan")
    found = native().attention(query, key, value, None)
    assert found[0, 1].isnan().all() and not found[0, 0].isnan().any()


@runs
def test_large_scores_do_not_overflow() -> None:
    query, key, value = joint(1, 2, 70, 64)
    assert off(native().attention(100 * query, key, value, None), exact(100 * query, key, value)) < 0.004


@runs
def test_threads_change_no_bit() -> None:
    query, key, value = joint(1, 1, 500, 64)
    before, answers = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            answers.append(native().attention(query, key, value, None))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


@runs
def test_autocast_rounds_what_comes_in_float32() -> None:
    query, key, value = (part.float() for part in joint(1, 2, 30, 32))
    with torch.autocast("cpu", torch.bfloat16):
        found = native().attention(query, key, value, None)
    assert found.dtype == torch.bfloat16 and off(found, exact(query, key, value)) < 0.004


@runs
@pytest.mark.parametrize("why", ["float32", "booleans", "narrow", "learnt mask", "nothing"])
def test_the_rest_is_done_by_torch(why: str) -> None:
    query, key, value = joint(1, 2, 0 if why == "nothing" else 30, 24 if why == "narrow" else 32)
    mask = torch.ones(30, 30).tril().bool()[None, None] if why == "booleans" else None
    if why == "float32":
        query, key, value = query.float(), key.float(), value.float()
    if why == "learnt mask":
        mask = torch.randn(1, 2, 30, 30).bfloat16().requires_grad_()
    with attention_kernel(native().attention):
        found = attend(query, key, value, mask)
    assert torch.equal(found, attend(query, key, value, mask)) and found.requires_grad == (why == "learnt mask")


@runs
def test_dropout_is_not_forgotten() -> None:
    query, key, value = joint(1, 2, 30, 32)
    with attention_kernel(native().attention):
        assert torch.equal(attend(query, key, value, dropout=1.0), torch.zeros_like(query))


def learning(*heads: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.detach().requires_grad_() for part in heads)


def check_gradients(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> None:
    """Against those of double precision, from the same numbers in bf16."""
    torch.manual_seed(0)
    heads = learning(query, key, value)
    given = torch.randn(query.shape).bfloat16()
    found = native().attention(*heads, bias)
    doubles = learning(query.double(), key.double(), value.double())
    wanted = exact(*doubles, bias)
    assert off(found, wanted) < 0.004
    pairs = zip(
        torch.autograd.grad(found, heads, given), torch.autograd.grad(wanted, doubles, given.double()), strict=True
    )
    # Weights, slopes and results are rounded to 8 bits; through torch's operators the error is three times as large.
    for its, exactly in pairs:
        assert its.dtype == torch.bfloat16 and its.shape == exactly.shape
        assert float((its - exactly).norm()) < 0.005 * float(exactly.norm()) + 1e-3


@runs
@pytest.mark.parametrize("tokens", [1, 2, 3, 6, 7, 11, 12, 16, 31, 64, 65, 197])
@pytest.mark.parametrize("dim", [16, 48, 64, 80, 128])
def test_gradients_of_every_length_and_width(tokens: int, dim: int) -> None:
    check_gradients(*joint(2, 3, tokens, dim))


@runs
@pytest.mark.parametrize(("queries", "keys"), [(1, 300), (7, 64), (300, 1), (64, 33), (500, 1500)])
def test_gradients_of_as_many_queries_as_you_like(queries: int, keys: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(1, 2, queries, 64).bfloat16()
    key, value = torch.randn(2, 1, 2, keys, 64).bfloat16().unbind(0)
    check_gradients(query, key, value)


@runs
@pytest.mark.parametrize("shape", [(1, 1, 1, 50), (2, 3, 50, 50), (1, 3, 50, 50), (1, 1, 50, 1)], ids=str)
def test_gradients_through_biases(shape: tuple[int, ...]) -> None:
    check_gradients(*joint(2, 3, 50, 32), 2 * torch.randn(shape))


@runs
def test_gradients_through_biases_of_some_that_repeat() -> None:
    bias = torch.randn(2, 3, 20, 20)
    heads = joint(4, 3, 20, 32)
    given = torch.randn(4, 3, 20, 32).bfloat16()
    answers = []
    for its in (bias, bias.repeat(2, 1, 1, 1)):
        parts = learning(*heads)
        answers.append(torch.autograd.grad(native().attention(*parts, its), parts, given))
    assert all(torch.equal(one, other) for one, other in zip(*answers, strict=True))


@runs
def test_what_is_shut_out_learns_nothing() -> None:
    heads = learning(*joint(1, 2, 40, 32))
    bias = torch.zeros(1, 1, 1, 40)
    bias[..., 23:] = float("-inf")
    for_query, for_key, for_value = torch.autograd.grad(native().attention(*heads, bias).sum(), heads)
    assert for_query.isfinite().all()
    assert not for_key[:, :, 23:].any() and not for_value[:, :, 23:].any() and for_value[:, :, :23].any()


@runs
def test_gradients_gone_wrong_are_not_hidden() -> None:
    heads = learning(*joint(1, 2, 20, 32))
    given = torch.ones(1, 2, 20, 32).bfloat16()
    given[0, 1, 3, 0] = float("nan")
    for gradient in torch.autograd.grad(native().attention(*heads, None), heads, given):
        assert gradient[0, 1].isnan().any() and not gradient[0, 0].isnan().any()


@runs
def test_threads_change_no_bit_of_gradients() -> None:
    heads = learning(*joint(1, 3, 500, 64))
    before, answers = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            answers.append(torch.autograd.grad(native().attention(*heads, None).square().sum(), heads))
    finally:
        torch.set_num_threads(before)
    for one, two, five in zip(*answers, strict=True):
        assert torch.equal(one, two) and torch.equal(one, five)


@runs
def test_some_parts_may_be_frozen() -> None:
    query, key, value = joint(1, 2, 30, 32)
    value.requires_grad_()
    assert not native().attention(query, key, value.detach(), None).requires_grad
    native().attention(query, key, value, None).sum().backward()
    assert value.grad is not None and query.grad is None


@runs
def test_gradients_of_gradients_are_refused() -> None:
    heads = learning(*joint(1, 2, 30, 32))
    (first, *_) = torch.autograd.grad(native().attention(*heads, None).square().sum(), heads, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
