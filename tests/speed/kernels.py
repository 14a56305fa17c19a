"""What the tests of the native kernels share."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vitrail.speed.native import Unavailable, native


def why_not() -> str:
    try:
        native()
    except Unavailable as reason:
        return str(reason)
    return ""


runs = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it runs")


def joint(batch: int, heads: int, tokens: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as a joint projection leaves them: none lies in one piece."""
    torch.manual_seed(batch + heads + tokens + dim)
    made = (1.5 * torch.randn(batch, tokens, 3, heads, dim)).bfloat16()
    query, key, value = made.permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def exact(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    scores = query.double() @ key.double().transpose(-2, -1) / math.sqrt(query.shape[-1])
    return (scores + (0 if bias is None else bias.double())).softmax(-1) @ value.double()


def off(found: Tensor, wanted: Tensor) -> float:
    return float(((found.double() - wanted).norm() / wanted.norm()).detach())
