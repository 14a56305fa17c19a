"""Where a token stands: tables of positions, and bringing a table to another grid.

A learned table is a parameter of its model, ``(1, prefix + H·W, D)``. Checkpoints disagree in one thing only: how their
authors interpolate it. The variants are plain functions with one signature, so that a model is told which is its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.nn.tokens import Grid

Resize = Callable[[Tensor, Grid], Tensor]
"""Brings positions on a grid ``(1, D, H, W)`` to another grid."""


def resize_bicubic(table: Float[Tensor, "1 d h w"], grid: Grid) -> Float[Tensor, "1 d h2 w2"]:
    """Bicubic to the target size, no antialiasing: Transformers' ViT, DeiT and DINOv2."""
    return F.interpolate(table, grid, mode="bicubic", align_corners=False)


def resize_bicubic_antialias(table: Float[Tensor, "1 d h w"], grid: Grid) -> Float[Tensor, "1 d h2 w2"]:
    """Bicubic to the target size with antialiasing: timm, and DINOv2 with registers."""
    return F.interpolate(table, grid, mode="bicubic", align_corners=False, antialias=True)


def resize_bicubic_offset(table: Float[Tensor, "1 d h w"], grid: Grid) -> Float[Tensor, "1 d h2 w2"]:
    """Bicubic by the factor ``(size + 0.1) / old size``: DINO and DINOv2 without registers.

    The authors added 0.1 against rounding; the factor also scales the sampling points, so it cannot be left out.
    """
    factors = [(new + 0.1) / old for new, old in zip(grid, table.shape[-2:], strict=True)]
    return F.interpolate(table, scale_factor=factors, mode="bicubic", align_corners=False)


ResizeName = Literal["bicubic", "bicubic_antialias", "bicubic_offset"]
RESIZES: dict[ResizeName, Resize] = {
    "bicubic": resize_bicubic,
    "bicubic_antialias": resize_bicubic_antialias,
    "bicubic_offset": resize_bicubic_offset,
}


def resize_positions(table: Float[Tensor, "1 n d"], old: Grid, new: Grid, resize: Resize) -> Float[Tensor, "1 m d"]:
    """The patch rows of a learned table brought from one grid to another; rows before them are kept.

    Args:
        table: rows for prefix tokens (as many as are left over), then one row per patch of ``old``.
        old: the grid that the table was learned on.
        new: the grid wanted. Computed in float32 whatever the table's type, as every reference does.
        resize: one of the variants above.
    """
    if old == new:
        return table
    prefix = table.shape[1] - math.prod(old)
    patches = table[:, prefix:].float().transpose(1, 2).unflatten(2, old)
    patches = resize(patches, new).flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat([table[:, :prefix], patches], dim=1)


def add_positions(
    values: Float[Tensor, "b n d"], table: Float[Tensor, "1 m d"], old: Grid, new: Grid, resize: Resize
) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "1 p d"]]:
    """Patches with their rows of a learned table, and the rows of the tokens before them.

    Args:
        values: all patches of the grid ``new``.
        table: as in :func:`resize_positions`, from which the other arguments come too.
        old: the grid that the table was learned on.
        new: the grid of the patches.
        resize: one of the variants above.
    """
    table = resize_positions(table, old, new, resize)
    prefix = table.shape[1] - values.shape[1]
    return values + table[:, prefix:], table[:, :prefix]


def sincos_1d(dim: int, places: Float[Tensor, " n"], temperature: float = 10_000.0) -> Float[Tensor, "n d"]:
    """Sines, then cosines, of every place at ``dim / 2`` geometrically spaced frequencies (Vaswani et al. 2017)."""
    if dim % 2:
        raise ValueError(f"sine-cosine positions need an even width, not {dim}")
    frequencies = temperature ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = places.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(dim: int, grid: Grid, prefix: int = 0, temperature: float = 10_000.0) -> Float[Tensor, "1 n d"]:
    """Fixed 2-D positions as MAE has them: half the width for the column, half for the row.

    Args:
        dim: token width, a multiple of 4.
        grid: ``(H, W)``.
        prefix: rows of zeros before the patches (class token).
        temperature: the longest wavelength over 2π.

    Source: MAE (He et al. 2022), appendix A.1, in the authors' order (columns before rows, sines before cosines).
    """
    if dim % 4:
        raise ValueError(f"2-D sine-cosine positions need a width that 4 divides, not {dim}")
    rows, columns = torch.meshgrid(*(torch.arange(n).double() for n in grid), indexing="ij")
    table = torch.cat(
        [
            sincos_1d(dim // 2, columns.flatten(), temperature),
            sincos_1d(dim // 2, rows.flatten(), temperature),
        ],
        dim=1,
    )
    return torch.cat([table.new_zeros(prefix, dim), table]).float()[None]


def sincos_interleaved(dim: int, count: int, temperature: float = 10_000.0) -> Float[Tensor, "1 n d"]:
    """Fixed positions by a token's number alone, each sine beside its cosine (Vaswani et al. 2017, section 3.5).

    Args:
        dim: token width, a multiple of 2.
        count: tokens, numbered from 0.
        temperature: the longest wavelength over 2π.
    """
    table = sincos_1d(dim, torch.arange(count).double(), temperature)
    return table.unflatten(1, (2, -1)).transpose(1, 2).flatten(1).float()[None]


def add_fixed_positions(module: nn.Module, name: str, dim: int, count: int) -> None:
    """Give a module the table of :func:`sincos_interleaved` as a buffer that its state dict does not have.

    Loading weights fills it anew: in a module that was made without memory (on the device ``"meta"``) nothing else
    would.

    Args:
        module: has parameters, whose type and device the table takes when they are loaded.
        name: of the buffer.
        dim: token width, a multiple of 2.
        count: tokens, numbered from 0.
    """
    module.register_buffer(name, sincos_interleaved(dim, count), persistent=False)
    module.register_load_state_dict_post_hook(partial(_fill_positions, name, dim, count))


def _fill_positions(name: str, dim: int, count: int, module: nn.Module, keys: object) -> None:
    table = sincos_interleaved(dim, count).to(next(module.parameters()))
    module.register_buffer(name, table, persistent=False)
