"""Positions of arbitrary places, not only of patches: sines and cosines of random frequencies.

Source: Tancik et al. 2020 (Fourier features, section 4), as SAM uses them for clicks, boxes and the grid alike.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.nn.tokens import Grid


class FourierPositions(nn.Module):
    """Random frequencies that are never trained, but stored: other ones would be another code.

    Args:
        dim: width of a position, even.
        scale: deviation of the frequencies.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"sine-cosine positions need an even width, not {dim}")
        self.register_buffer("frequencies", scale * torch.randn(2, dim // 2))

    def forward(self, places: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n d"]:
        """Positions of places given as ``(x, y)`` from 0 to 1 across and down the picture; computed in float32."""
        # No matrix product: autocast would take it in half precision, which cannot tell neighbouring pixels apart.
        angles = 2 * math.pi * ((2 * places.float() - 1).unsqueeze(-1) * self.frequencies.float()).sum(dim=-2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.frequencies.dtype)

    def grid(self, grid: Grid) -> Float[Tensor, "1 n d"]:
        """Positions of the middles of all patches, row by row."""
        rows, columns = ((torch.arange(n, device=self.frequencies.device) + 0.5) / n for n in grid)
        places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
        return self(places).flatten(0, 1)[None]
