"""Norms and sums by the kernels that are built on the machine."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.speed.kernels import runs
from vitrail.speed.native import native


@runs
@pytest.mark.parametrize("width", [1, 15, 16, 17, 96, 384, 1000])
@pytest.mark.parametrize("rows", [(1,), (2, 7), (3, 1, 5), (0, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_norms_of_every_width(rows: tuple[int, ...], width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    x, weight, bias = (30 + 3 * torch.randn(*rows, width)).to(dtype), torch.randn(width), torch.randn(width)
    found = native().norm(x, weight, bias, 1e-6)
    wanted = F.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-6)
    assert found.dtype == torch.bfloat16 and found.shape == x.shape
    # Within half a step of bf16, or of float32's own error where the mean is far from the spread.
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=2e-4)


@runs
def test_a_norm_may_read_what_lies_in_strides_and_shows_a_nan() -> None:
    x = torch.randn(4, 6, 32).transpose(0, 1)
    x[2, 1, 5] = float("nan")
    found = native().norm(x, torch.ones(32), torch.zeros(32), 1e-5)
    assert found.isnan().all(-1).nonzero().tolist() == [[2, 1]]
    keep = ~found.isnan()
    wanted = F.layer_norm(x, (32,), eps=1e-5)
    torch.testing.assert_close(found[keep].float(), wanted[keep], rtol=2**-8, atol=1e-4)


@runs
@pytest.mark.parametrize("shape", [(1,), (15,), (16,), (3, 5, 7), (0,), (2, 197, 768)], ids=str)
def test_sums_are_torchs_bit_for_bit(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(shape), torch.randn(shape).bfloat16()
    found = native().add(left, right)
    assert found.dtype == torch.float32 and torch.equal(found, left + right)


@runs
def test_other_sums_are_done_by_torch() -> None:
    left, right = torch.randn(4, 6), torch.randn(6, 4).bfloat16()
    assert torch.equal(native().add(left, right.T), left + right.T)
    assert torch.equal(native().add(left, right.T[:1]), left + right.T[:1])
    assert native().add(left.requires_grad_(), right.T.contiguous()).requires_grad
