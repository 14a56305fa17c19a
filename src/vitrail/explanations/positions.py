"""What a model's position table says of the picture: how alike the positions of any two patches are.

Source: ViT (Dosovitskiy et al. 2021), figure 7, middle.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.models import Backbone, ImageTower, SamEncoder, VideoTransformer, VisionTransformer
from vitrail.nn.tokens import Grid

Placed = VisionTransformer | ImageTower | VideoTransformer | SamEncoder
"""The families that add positions to their patches before the first block."""


def patch_positions(model: Backbone, grid: Grid | None = None) -> Float[Tensor, "n d"]:
    """What a model adds to its patches to say where they stand, one row per patch, resized to a grid.

    Args:
        model: with a table of positions, learned or fixed.
        grid: the one wanted; that of the model's own size when None.

    Raises:
        VitrailError: the model has no such table (its positions are relative or rotary, or it has none).
    """
    placed = _with_table(model)
    grid = grid or placed.config.grid
    reference = next(placed.parameters())
    nothing = torch.zeros(1, prod(grid), placed.config.embed_dim, dtype=reference.dtype, device=reference.device)
    # What the model itself makes of patches without content: how it resizes its table need not be known here.
    with torch.no_grad():
        return placed.place(nothing, grid)[0][0].float().cpu()


def position_similarity(model: Backbone, grid: Grid | None = None) -> Float[Tensor, "*both"]:
    """Cosine similarity of the positions of all pairs of patches, ``(H, W, H, W)``: ``[r, c]`` is one patch's map.

    Args:
        model: with a table of positions.
        grid: the one wanted; that of the model's own size when None.

    Raises:
        VitrailError: as :func:`patch_positions`.
    """
    rows = F.normalize(patch_positions(model, grid), dim=-1)
    sides = grid or _with_table(model).config.grid
    return (rows @ rows.T).clamp(-1, 1).reshape(*sides, *sides)


def _with_table(model: Backbone) -> Placed:
    if not isinstance(model, Placed):
        raise VitrailError(
            f"{type(model).__name__} has no table of positions: where patches stand is known to its attention alone"
        )
    return model
