"""Relative positions: what attention adds to a score for how far apart query and key stand.

A table has one row for every distance on the grid, ``(2H-1)·(2W-1)`` of them, and one column for every head (Swin, Liu
et al. 2021, section 3.2, equation 4; BEiT, Bao et al. 2022, section 2.5). As with tables of positions, checkpoints
disagree only in how their authors bring a table to another grid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.nn.position import Resize, resize_bicubic
from vitrail.nn.tokens import Grid, Tokens

PREFIX_ROWS = 3
"""Behind the distances: prefix to patch, patch to prefix, prefix to prefix."""


def distances(grid: Grid) -> Grid:
    """How many distances there are along each axis of a grid."""
    return tuple(2 * size - 1 for size in grid)


def resize_bilinear(table: Float[Tensor, "1 d h w"], grid: Grid) -> Float[Tensor, "1 d h2 w2"]:
    """Bilinear to the target size: Transformers' BEiT."""
    return F.interpolate(table, grid, mode="bilinear", align_corners=False)


def resize_geometric(table: Float[Tensor, "1 d h w"], grid: Grid) -> Float[Tensor, "1 d h2 w2"]:
    """Linear between known distances that are moved apart by a geometric progression: BEiT's authors, and timm.

    Short distances keep their values and only the long ones are stretched. The authors draw a cubic spline through the
    moved points, timm straight lines, as here.
    """
    rows, columns = (table.new_tensor(_stretch(old, new)) for old, new in zip(table.shape[-2:], grid, strict=True))
    return rows @ table @ columns.T


@lru_cache(maxsize=64)
def _stretch(old: int, new: int) -> tuple[tuple[float, ...], ...]:
    """How much each of ``new`` distances takes from each of ``old`` ones."""
    steps = old // 2
    places = [0.0]
    ratio = _progression(steps, new // 2)
    for step in range(steps):
        places.append(places[-1] + ratio**step)
    places = [-place for place in reversed(places[1:])] + places
    return tuple(_between(places, float(target)) for target in range(-(new // 2), new // 2 + 1))


def _progression(steps: int, reach: int) -> float:
    """The ratio whose first ``steps`` powers add up to ``reach``, searched for as the authors do."""
    low, high = 1.01, 1.5
    ratio = low
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**steps) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    return ratio


def _between(places: list[float], target: float) -> tuple[float, ...]:
    """Weights of the neighbours of ``target``, which the outermost places stand in for beyond them."""
    weights = [0.0] * len(places)
    right = next((i for i, place in enumerate(places) if place >= target), len(places) - 1)
    left = max(right - 1, 0)
    width = places[right] - places[left]
    share = min(max((target - places[left]) / width, 0.0), 1.0) if width else 1.0
    weights[left] += 1 - share
    weights[right] += share
    return tuple(weights)


BiasResizeName = Literal["bilinear", "bicubic", "geometric"]
BIAS_RESIZES: dict[BiasResizeName, Resize] = {
    "bilinear": resize_bilinear,
    "bicubic": resize_bicubic,
    "geometric": resize_geometric,
}


def resize_bias(table: Float[Tensor, "n heads"], old: Grid, new: Grid, resize: Resize) -> Float[Tensor, "m heads"]:
    """A table of distances brought from one grid to another; rows behind the distances are kept.

    Args:
        table: one row per distance on ``old``, then those of prefix tokens if there are any.
        old: the grid that the table was learned on.
        new: the grid wanted. Computed in float32 whatever the table's type.
        resize: one of the variants above.
    """
    if old == new:
        return table
    rows, columns = distances(old)
    patches = table[: rows * columns].float().T.unflatten(1, (rows, columns))
    resized = resize(patches[None], distances(new))[0].flatten(1).T.to(table.dtype)
    return torch.cat([resized, table[rows * columns :]])


class RelativePositionBias(nn.Module):
    """What is added to every head's scores for the distance of query and key.

    It is the ``position_bias`` of :class:`~vitrail.nn.Attention`. One module handed to several attentions is a shared
    bias; :meth:`bias` gives it without tokens, for a context.

    Args:
        grid: ``(H, W)`` that the table is for; other grids get it resized.
        num_heads: columns of the table.
        prefix: whether there are three more rows for tokens that are no patches: prefix to patch, patch to prefix,
            prefix to prefix (BEiT). All prefix tokens share them.
        resize: how the table is brought to another grid.
        std: deviation of the table at the start; zeros at 0.
    """

    def __init__(
        self,
        grid: Grid,
        num_heads: int,
        prefix: bool = False,
        resize: Callable[[Tensor, Grid], Tensor] = resize_bilinear,
        std: float = 0.0,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.prefix = prefix
        self.resize = resize
        rows, columns = distances(grid)
        table = torch.zeros(rows * columns + PREFIX_ROWS * prefix, num_heads)
        self.relative_position_bias_table = nn.Parameter(table)
        if std:
            nn.init.trunc_normal_(self.relative_position_bias_table, std=std)

    def forward(
        self, query: Float[Tensor, "b heads q d"], tokens: Tokens, rows: Int[Tensor, " q"] | None = None
    ) -> Float[Tensor, "#b heads q n"]:
        """The bias of all pairs of tokens, or of chosen queries with all tokens, of the queries' type."""
        if tokens.keep is None:
            return self.bias(tokens.grid, tokens.prefix, rows).to(query.dtype)[None]
        bias = self.bias(tokens.grid, tokens.prefix).to(query.dtype)
        prefix = torch.arange(tokens.prefix, device=bias.device).expand(len(tokens.keep), -1)
        places = torch.cat([prefix, tokens.keep + tokens.prefix], dim=1)
        chosen = places if rows is None else places[:, rows]
        return bias[:, chosen[:, :, None], places[:, None, :]].transpose(0, 1)

    def bias(self, grid: Grid, prefix: int = 0, rows: Int[Tensor, " q"] | None = None) -> Float[Tensor, "heads q n"]:
        """The bias of all pairs of places of a grid behind ``prefix`` other tokens.

        Args:
            grid: ``(H, W)``.
            prefix: tokens before the patches.
            rows: places of the queries; None for all of them.

        Raises:
            ValueError: prefix tokens and no rows for them.
        """
        if prefix and not self.prefix:
            raise ValueError(f"this table of distances has no rows for {prefix} tokens that are no patches")
        table = resize_bias(self.relative_position_bias_table, self.grid, grid, self.resize)
        sides = distances(grid)
        by_distance = table[: sides[0] * sides[1]].T.unflatten(1, sides)
        down, across = (_apart(size, table.device) for size in grid)
        # Indices of two small tables, one for each axis: that of all pairs would be as large as the bias itself.
        if rows is None:
            patches = by_distance[:, down[:, None, :, None], across[None, :, None, :]].flatten(3, 4).flatten(1, 2)
        else:
            places = (rows - prefix).clamp(min=0)
            apart = down[places // grid[1], :, None], across[places % grid[1], None, :]
            patches = by_distance[:, *apart].flatten(2)
        if not prefix:
            return patches
        to_patch, to_prefix, among = table[-PREFIX_ROWS:, :, None, None]
        heads, _, count = patches.shape
        above = torch.cat([among.expand(heads, 1, prefix), to_patch.expand(heads, 1, count)], dim=2)
        below = torch.cat([to_prefix.expand(heads, patches.shape[1], prefix), patches], dim=2)
        if rows is None:
            return torch.cat([above.expand(heads, prefix, prefix + count), below], dim=1)
        return torch.where((rows < prefix)[:, None], above, below)

    def extra_repr(self) -> str:
        """Grid and prefix, in ``repr(model)``."""
        return f"grid={self.grid}, prefix={self.prefix}"


def _apart(size: int, device: torch.device) -> Tensor:
    """Row of the distance from place ``j`` to place ``i`` along an axis, ``(size, size)``."""
    places = torch.arange(size, device=device)
    return places[:, None] - places[None, :] + size - 1
