"""Joint projections of queries, keys and values: one whose keys have no bias, and a part of any of them alone."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class JointLinear(nn.Module, ABC):
    """A joint projection that is no plain linear layer, and knows how to give a part of itself."""

    @abstractmethod
    def third(self, x: Float[Tensor, "b n d"], third: int) -> Float[Tensor, "b n inner"]:
        """Queries (0), keys (1) or values (2) alone."""


class KeylessLinear(JointLinear):
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
        return F.linear(x, self.weight, self.joint_bias())

    def third(self, x: Float[Tensor, "b n d"], third: int) -> Float[Tensor, "b n inner"]:
        """Queries (0), keys (1) or values (2) alone."""
        return F.linear(x, self.weight.chunk(3)[third], self.joint_bias().chunk(3)[third])

    def joint_bias(self) -> Float[Tensor, " out"]:
        """``[q_bias; 0; v_bias]``."""
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])


def third_of(projection: nn.Module, x: Float[Tensor, "b n d"], third: int) -> Float[Tensor, "b n inner"]:
    """Queries (0), keys (1) or values (2) alone, at a third of the cost where the projection's matrix can be cut.

    Args:
        projection: a joint one.
        x: its input.
        third: which of the three.
    """
    # Exactly this class: a subclass (an adapter's, say) adds something of its own to what the matrix gives.
    if type(projection) is nn.Linear:
        bias = None if projection.bias is None else projection.bias.chunk(3)[third]
        return F.linear(x, projection.weight.chunk(3)[third], bias)
    if isinstance(projection, JointLinear):
        return projection.third(x, third)
    return projection(x).chunk(3, dim=-1)[third]
