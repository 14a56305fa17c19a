"""Rotary positions on a grid: queries and keys are turned by angles that grow with their row and column.

The scores then depend on how far apart two patches are, at any grid. Sources: RoFormer (Su et al. 2021, section 3.4);
the axial form with normalised coordinates, periods and jitter: DINOv3 (Siméoni et al. 2025, section 3.2).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.nn.context import Rotary
from vitrail.nn.tokens import Grid


def rotate(
    heads: Float[Tensor, "b heads n d"], rotary: Rotary, prefix: int, keep: Int[Tensor, "b k"] | None = None
) -> Float[Tensor, "b heads n d"]:
    """The patches' heads turned by the angles of their places; the first ``prefix`` tokens stay.

    Channel ``i`` of the first half is turned together with channel ``i`` of the second.

    Args:
        heads: queries or keys.
        rotary: angles of every patch of the grid.
        prefix: leading tokens that are no patches.
        keep: which patches of the grid are present, None for all.
    """
    patches = heads[:, :, prefix:]
    cos, sin = (table.to(heads.dtype) for table in rotary)
    if keep is not None:
        cos, sin = cos[keep].unsqueeze(1), sin[keep].unsqueeze(1)
    first, second = patches.chunk(2, dim=-1)
    turned = patches * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([heads[:, :, :prefix], turned], dim=2) if prefix else turned


def rotate_rows(
    heads: Float[Tensor, "b heads q d"],
    rotary: Rotary,
    prefix: int,
    keep: Int[Tensor, "b k"] | None = None,
    rows: Int[Tensor, " q"] | None = None,
) -> Float[Tensor, "b heads q d"]:
    """:func:`rotate` when only some of the sequence's tokens are there.

    Args:
        heads: queries or keys of the chosen rows.
        rotary: angles of every patch of the grid.
        prefix: leading tokens of the whole sequence that are no patches.
        keep: which patches of the grid are in the sequence, None for all.
        rows: places in the sequence; None for all of them.
    """
    if rows is None:
        return rotate(heads, rotary, prefix, keep)
    patches = (rows - prefix).clamp(min=0)
    places = patches.expand(len(heads), -1) if keep is None else keep[:, patches]
    return torch.where((rows < prefix)[:, None], heads, rotate(heads, rotary, 0, places))


class RotaryGrid(nn.Module):
    """Angles for every patch of a grid: a quarter of a head's channels (twice) for rows, a quarter for columns.

    Coordinates are patch centres in [-1, 1], so that a larger picture has the same angles at its borders.

    Args:
        head_dim: width of a head, a multiple of 4.
        base: the periods are ``base`` to the powers 0 … 1 (exclusive).
        shift: in training, both coordinates are shifted by up to this much.
        jitter: in training, each coordinate is scaled by a factor between ``1 / jitter`` and ``jitter`` (log-uniform).
        rescale: in training, both are scaled by one factor in the same way.
    """

    periods: Tensor

    def __init__(
        self,
        head_dim: int,
        base: float = 100.0,
        shift: float | None = None,
        jitter: float | None = None,
        rescale: float | None = None,
    ) -> None:
        super().__init__()
        if head_dim % 4:
            raise ValueError(f"rotary positions on a grid need heads of a width that 4 divides, not {head_dim}")
        self.shift, self.jitter, self.rescale = shift, jitter, rescale
        self.register_buffer("periods", base ** (torch.arange(head_dim // 4) / (head_dim // 4)))

    def forward(self, grid: Grid) -> Rotary:
        """Cosines and sines ``(H·W, head_dim)`` for a grid ``(H, W)``."""
        device = self.periods.device
        centres = [(torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n for n in grid]
        places = 2.0 * torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).flatten(0, -2) - 1.0
        if self.training:
            places = self._disturb(places)
        angles = (2 * math.pi * places[:, :, None] / self.periods.float()).flatten(1).tile(2)
        return Rotary(angles.cos(), angles.sin())

    def _disturb(self, places: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        if self.shift is not None:
            places = places + places.new_empty(2).uniform_(-self.shift, self.shift)
        for most, count in ((self.jitter, 2), (self.rescale, 1)):
            if most is not None:
                places = places * places.new_empty(count).uniform_(-math.log(most), math.log(most)).exp()
        return places
