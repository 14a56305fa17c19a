"""Normalisation of feature maps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of every place of a map laid out ``(B, C, H, W)``.

    Args:
        channels: how many there are.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same map, normalised."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
