"""Normalisation of feature maps, and what a frozen norm with statistics does while the rest learns."""

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


def rest_frozen_norms(root: nn.Module) -> None:
    """Put every batch norm below ``root`` whose factors are frozen into evaluation mode.

    Elsewhere it would normalise by the batch and move its statistics, which no ``requires_grad`` holds back. One
    without factors has nothing that could be frozen, and is left as it is.
    """
    for module in root.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm):
            factors = list(module.parameters(recurse=False))
            if factors and not any(factor.requires_grad for factor in factors):
                module.eval()
