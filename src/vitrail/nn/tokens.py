"""What flows through a vision transformer: token values together with the grid they stand on."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Grid = tuple[int, ...]
"""Patches along each axis: ``(H, W)`` for a picture, ``(T, H, W)`` for a clip."""


class Tokens(NamedTuple):
    """A batch of token sequences that knows where its tokens stand.

    Attributes:
        values: the sequence, ``(B, N, D)``: first ``prefix`` tokens that are no patches, then the patches, row by row.
        grid: the patch grid that the picture was cut into, also when only some of its patches are present.
        prefix: how many leading tokens are no patches (class, distillation, registers).
        keep: ``(B, K)``, which patches of the grid are present, in the order of ``values``; None for all of them.
    """

    values: Float[Tensor, "b n d"]
    grid: Grid
    prefix: int = 0
    keep: Int[Tensor, "b k"] | None = None

    @property
    def patches(self) -> Float[Tensor, "b k d"]:
        """The patch tokens alone, ``(B, N - prefix, D)``."""
        return self.values[:, self.prefix :]

    @property
    def prefix_values(self) -> Float[Tensor, "b p d"]:
        """The tokens that are no patches, ``(B, prefix, D)``."""
        return self.values[:, : self.prefix]

    def with_values(self, values: Float[Tensor, "b n d"]) -> Tokens:
        """The same places with other values (of the same length)."""
        return self._replace(values=values)

    def prepend(self, extra: Float[Tensor, "b p d"]) -> Tokens:
        """The same tokens behind ``extra`` further prefix tokens."""
        return self._replace(values=torch.cat([extra, self.values], dim=1), prefix=self.prefix + extra.shape[1])

    def feature_map(self) -> Float[Tensor, "b d *grid"]:
        """The patches laid out on their grid, channels first: ``(B, D, H, W)``.

        Raises:
            ValueError: if some patches were dropped, so that the grid has holes.
        """
        if self.keep is not None:
            raise ValueError("a feature map needs every patch: these tokens keep only a part of their grid")
        if self.patches.shape[1] != prod(self.grid):
            raise ValueError(f"{self.patches.shape[1]} patches do not fill a grid of {self.grid}")
        return self.patches.transpose(1, 2).unflatten(2, self.grid)


def take_patches(values: Float[Tensor, "b n d"], keep: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The rows ``keep`` of ``values``, chosen for every picture by itself."""
    return values.gather(1, keep.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
