"""Fewer and wider tokens: the step between the stages of a hierarchical model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from vitrail.nn.block import Norm
from vitrail.nn.tokens import Tokens


class PatchMerging(nn.Module):
    """Each square of 2 × 2 patches becomes one of twice the width (Swin, Liu et al. 2021, section 3.1).

    A grid of odd size is filled up with zeros below and to the right. The four stand side by side column by column:
    top left, bottom left, top right, bottom right.

    Args:
        dim: width of a token.
        norm: makes a norm of a given width.
    """

    def __init__(self, dim: int, norm: Norm = nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens of half the grid, rounded up, ``(B, ⌈H/2⌉·⌈W/2⌉, 2·D)``."""
        if tokens.prefix or tokens.keep is not None:
            raise ValueError("merging needs every patch of the grid and no other tokens")
        height, width = tokens.grid
        x = F.pad(tokens.values.unflatten(1, tokens.grid), (0, 0, 0, width % 2, 0, height % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5)
        grid = (x.shape[1], x.shape[2])
        return Tokens(self.reduction(self.norm(x.flatten(3).flatten(1, 2))), grid)
