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
        keep: ``(B, K)``, which patches of the grid are present, in the order of ``values``; None for all of them. Of
            merged ones it is the patch at whose place their token stands.
        merged: ``(B, P)``, for every patch of the grid the place among the patch tokens of the one that it has become
            a part of; None where every token is one patch.
        registers: how many of the ``prefix`` tokens are registers; they stand last among them.
    """

    values: Float[Tensor, "b n d"]
    grid: Grid
    prefix: int = 0
    keep: Int[Tensor, "b k"] | None = None
    merged: Int[Tensor, "b p"] | None = None
    registers: int = 0

    @property
    def class_token(self) -> bool:
        """Whether the first token is a class token: registers alone speak for no picture."""
        return self.prefix > self.registers

    @property
    def patches(self) -> Float[Tensor, "b k d"]:
        """The patch tokens alone, ``(B, N - prefix, D)``."""
        return self.values[:, self.prefix :]

    @property
    def prefix_values(self) -> Float[Tensor, "b p d"]:
        """The tokens that are no patches, ``(B, prefix, D)``."""
        return self.values[:, : self.prefix]

    @property
    def places(self) -> Int[Tensor, "b m"]:
        """Where in the sequence every token stands that there was before patches were merged, prefix tokens first."""
        device, batch = self.values.device, len(self.values)
        if self.merged is None:
            return torch.arange(self.values.shape[1], device=device).expand(batch, -1)
        prefix = torch.arange(self.prefix, device=device).expand(batch, -1)
        return torch.cat([prefix, self.merged + self.prefix], dim=1)

    @property
    def sizes(self) -> Float[Tensor, "b n"]:
        """How many tokens each token of the sequence has become of; prefix tokens are one each."""
        places = self.places
        counts = torch.zeros(self.values.shape[:2], device=places.device)
        return counts.scatter_add(1, places, counts.new_ones(places.shape))

    def unmerged(self) -> Tokens:
        """The whole grid again, with the value of its token at every patch."""
        if self.merged is None:
            return self
        return self._replace(values=take_patches(self.values, self.places), keep=None, merged=None)

    def leading(self, count: int) -> Tokens:
        """The first ``count`` tokens alone: prefix tokens, or all that there are.

        Raises:
            ValueError: some patches would be among them, and others not.
        """
        if count == self.values.shape[1]:
            return self
        if count > self.prefix:
            raise ValueError(f"the first {count} of {self.values.shape[1]} tokens are not {self.prefix} prefix tokens")
        none = torch.empty(self.values.shape[0], 0, dtype=torch.int64, device=self.values.device)
        registers = max(0, count - (self.prefix - self.registers))
        return Tokens(self.values[:, :count], self.grid, count, keep=none, registers=registers)

    def share_out(self, amounts: Float[Tensor, "b *rows n"]) -> Float[Tensor, "b *rows m"]:
        """What falls to each token, in equal parts on all that it has become of: sums stay what they were."""
        if self.merged is None:
            return amounts
        between = [1] * (amounts.ndim - 2)
        sizes, places = (facts.unflatten(0, (-1, *between)) for facts in (self.sizes, self.places))
        return (amounts / sizes).gather(-1, places.expand(*amounts.shape[:-1], -1))

    def with_values(self, values: Float[Tensor, "b n d"]) -> Tokens:
        """The same places with other values (of the same length)."""
        return self._replace(values=values)

    def prepend(self, extra: Float[Tensor, "b p d"], registers: int = 0) -> Tokens:
        """The same tokens behind ``extra`` further prefix tokens, the last ``registers`` of which are registers."""
        return self._replace(
            values=torch.cat([extra, self.values], dim=1),
            prefix=self.prefix + extra.shape[1],
            registers=self.registers + registers,
        )

    def feature_map(self) -> Float[Tensor, "b d *grid"]:
        """The patches laid out on their grid, channels first: ``(B, D, H, W)``.

        Raises:
            ValueError: if some patches were dropped, so that the grid has holes.
        """
        if self.merged is not None:
            raise ValueError("a feature map needs every patch: bring merged tokens back with unmerged()")
        if self.keep is not None:
            raise ValueError("a feature map needs every patch: these tokens keep only a part of their grid")
        if self.patches.shape[1] != prod(self.grid):
            raise ValueError(f"{self.patches.shape[1]} patches do not fill a grid of {self.grid}")
        return self.patches.transpose(1, 2).unflatten(2, self.grid)


def take_patches(values: Float[Tensor, "b n d"], keep: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The rows ``keep`` of ``values``, chosen for every picture by itself."""
    return values.gather(1, keep.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
