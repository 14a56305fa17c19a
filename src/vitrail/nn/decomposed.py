"""Relative positions taken apart into rows and columns, as a bias of the attention scores.

Source: MViTv2 (Li et al. 2022, section 4.1, equation 4); ViTDet and SAM use it in a plain transformer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.nn.tokens import Grid, Tokens


class DecomposedPositions(nn.Module):
    """A ``position_bias`` of :class:`~vitrail.nn.Attention`: ``q · (R_h[Δrow] + R_w[Δcolumn])`` for all pairs.

    On another grid than it was made for the tables are resized linearly. The tables start at zero.

    Args:
        grid: rows and columns that it is made for: the whole grid, or one window.
        head_dim: width of a head.
    """

    def __init__(self, grid: Grid, head_dim: int) -> None:
        super().__init__()
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[0] - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[1] - 1, head_dim))

    def forward(
        self, query: Float[Tensor, "b heads q d"], tokens: Tokens, rows: Int[Tensor, " q"] | None = None
    ) -> Float[Tensor, "b heads q n"]:
        """What is added to the scores.

        Args:
            query: of every head, not scaled.
            tokens: say what the grid is; every patch of it and nothing else.
            rows: places of the queries on the grid; None for all of them.
        """
        if tokens.prefix or tokens.keep is not None:
            raise ValueError("positions by row and column need every patch of the grid and no other tokens")
        height, width = tokens.grid
        down, across = distances(self.rel_pos_h, height), distances(self.rel_pos_w, width)
        if rows is not None:
            # Every query has its own pair of tables: dear for all of them, next to nothing for a few.
            apart_down = torch.einsum("bhqd,qkd->bhqk", query, down[rows // width])
            apart_across = torch.einsum("bhqd,qkd->bhqk", query, across[rows % width])
        else:
            places = query.unflatten(2, (height, width))
            apart_down = torch.einsum("bhrcd,rkd->bhrck", places, down).flatten(2, 3)
            apart_across = torch.einsum("bhrcd,ckd->bhrck", places, across).flatten(2, 3)
        return (apart_down.unsqueeze(-1) + apart_across.unsqueeze(-2)).flatten(3)


def distances(table: Float[Tensor, "l d"], size: int) -> Float[Tensor, "size size d"]:
    """The rows of a table that belong to every pair of places along one axis, the query's first.

    Args:
        table: a row for every distance, from the most negative on; resized when there are not ``2·size - 1``.
        size: places along the axis.
    """
    places = torch.arange(size, device=table.device)
    return resize_distances(table, size)[places[:, None] - places[None, :] + size - 1]


def resize_distances(table: Float[Tensor, "l d"], size: int) -> Float[Tensor, "l2 d"]:
    """A table of distances along an axis for an axis of another length, linearly and in float32."""
    if len(table) == 2 * size - 1:
        return table
    resized = F.interpolate(table.float().T[None], 2 * size - 1, mode="linear", align_corners=False)
    return resized[0].T.to(table.dtype)
