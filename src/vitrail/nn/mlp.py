"""The position-wise half of a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear, activation, linear (Dosovitskiy et al. 2021, equation 3).

    Args:
        dim: width of a token.
        hidden: width between the two layers.
        activation: makes the non-linearity; exact (erf) GELU by default.
        dropout: after each layer, while training.
    """

    def __init__(
        self, dim: int, hidden: int, activation: Callable[[], nn.Module] = nn.GELU, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = activation()
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Each token by itself."""
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(x)))))


class SwiGLU(nn.Module):
    """Gated MLP: ``w3(silu(a) · b)`` with ``[a; b] = w12(x)`` (Shazeer 2020; the giant DINOv2).

    Args:
        dim: width of a token.
        hidden: width of the gate, that is, half of what ``w12`` gives.
        dropout: after the last layer, while training.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Each token by itself."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.dropout(self.w3(F.silu(gate) * value))


def swiglu_hidden(dim: int, mlp_ratio: float) -> int:
    """Gate width that costs as much as an :class:`Mlp` of ``mlp_ratio``: two thirds of it, rounded up to 8."""
    return (int(int(dim * mlp_ratio) * 2 / 3) + 7) // 8 * 8


MlpName = Literal["gelu", "swiglu"]
MLPS: dict[MlpName, Callable[[int, float, float], nn.Module]] = {
    "gelu": lambda dim, ratio, dropout: Mlp(dim, int(dim * ratio), dropout=dropout),
    "swiglu": lambda dim, ratio, dropout: SwiGLU(dim, swiglu_hidden(dim, ratio), dropout=dropout),
}
"""An MLP by its name; each is made from the token width, the ratio of the hidden width and the dropout."""
