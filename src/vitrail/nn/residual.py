"""What stands on a residual branch: layer scale and stochastic depth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LayerScale(nn.Module):
    """A learned factor per channel, small at first (CaiT, Touvron et al. 2021, section 2)."""

    def __init__(self, dim: int, initial: float = 1e-5) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """``x · gamma``."""
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth: while training, a sample loses the whole branch with probability ``rate``.

    What remains is scaled by ``1 / (1 - rate)`` so that the mean stays (Huang et al. 2016).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop_path must be at least 0 and below 1, not {rate}")
        self.rate = rate

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The branch, or for some samples nothing."""
        if self.rate == 0.0 or not self.training:
            return x
        alive = torch.empty(x.shape[0], 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1.0 - self.rate)
        return x * alive / (1.0 - self.rate)

    def extra_repr(self) -> str:
        """The rate, in ``repr(model)``."""
        return f"rate={self.rate:g}"


def drop_path_rates(highest: float, depth: int) -> list[float]:
    """Rates that rise linearly from 0 at the first block to ``highest`` at the last."""
    return [highest * i / max(1, depth - 1) for i in range(depth)]
