"""A joint projection of queries, keys and values whose keys have no bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class KeylessLinear(nn.Module):
    """Joint projection with biases for queries and values only (BEiT, Bao et al. 2022; VideoMAE).

    A bias of the keys adds the same to all scores of a query, which softmax cancels.

    Args:
        dim: width of a token.
        out: three times the width of all heads together.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, dim))
        self.q_bias = nn.Parameter(torch.zeros(out // 3))
        self.v_bias = nn.Parameter(torch.zeros(out // 3))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n out"]:
        """``x Wᵀ + [q_bias; 0; v_bias]``."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return F.linear(x, self.weight, bias)
