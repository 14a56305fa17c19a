"""Mixing inside windows: a cost that grows with the number of patches, not with its square.

Sources: Swin (Liu et al. 2021, section 3.2) for the shift; ViTDet (Li et al. 2022, section 3) for plain windows.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.mixer import Mixer
from vitrail.nn.tokens import Grid, Tokens

Values = Float[Tensor, "b n d"]


class WindowMixer(Mixer):
    """Runs a mixer inside every window of the grid.

    A grid that windows do not divide is filled up with zeros below and to the right; as in every published model the
    zeros take part in the mixing (they are tokens without content) and are cut off again.

    Args:
        mixer: mixes the tokens of one window; told apart from the others only by its mask when shifted.
        window: rows and columns of a window.
        shift: rows and columns that the windows are moved down and right; an axis that one window covers is never
            shifted.
    """

    def __init__(self, mixer: Mixer, window: tuple[int, int], shift: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        if any(not 0 <= s < w for s, w in zip(shift, window, strict=True)):
            raise ValueError(f"a window of {window} cannot be shifted by {shift}")
        self.mixer = mixer
        self.window = window
        self.shift = shift

    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Values:
        """Every token's mix of its window."""
        cut = _Cut(tokens.grid, self.window, self.shift)
        windows, inner = self._windows(tokens, context, cut)
        return cut.merge(self.mixer(windows, inner))

    def weights(
        self, tokens: Tokens, context: Context = NO_CONTEXT, queries: Int[Tensor, " q"] | None = None
    ) -> Float[Tensor, "b heads q n"]:
        """Rows over the whole sequence: zero outside the query's window; what filled-up places took is left out.

        Only the windows that the queries stand in are mixed.
        """
        cut, count, device = _Cut(tokens.grid, self.window, self.shift), tokens.values.shape[1], tokens.values.device
        rows = torch.arange(count, device=device) if queries is None else queries
        # Where each place of each window stands in the sequence; filled-up places point one behind its end.
        places = cut.places(count, device)
        home = places.new_empty(count + 1)
        home[places.flatten()] = torch.arange(places.numel(), device=device)
        chosen, window_of = (home[rows] // places.shape[1]).unique(return_inverse=True)
        inside, row_of = (home[rows] % places.shape[1]).unique(return_inverse=True)
        windows, inner = self._windows(tokens, context, cut, chosen)
        weights = self.mixer.weights(windows, inner, inside).unflatten(0, (-1, len(chosen)))
        found = weights[:, window_of, :, row_of].permute(1, 2, 0, 3)
        full = found.new_zeros(*found.shape[:3], count + 1)
        return full.scatter(-1, places[chosen][window_of].expand_as(found), found)[..., :count]

    def _windows(
        self, tokens: Tokens, context: Context, cut: _Cut, chosen: Int[Tensor, " w"] | None = None
    ) -> tuple[Tokens, Context]:
        """All windows of all pictures, or those of some numbers."""
        if tokens.prefix or tokens.keep is not None:
            raise ValueError("windows need every patch of the grid and no other tokens")
        windows, mask = cut.split(tokens.values), cut.mask(tokens.values.device)
        if chosen is not None:
            windows = windows.unflatten(0, (tokens.values.shape[0], -1))[:, chosen].flatten(0, 1)
            mask = None if mask is None else mask[chosen]
        return Tokens(windows, self.window), context._replace(mask=None if mask is None else mask[:, None])

    def extra_repr(self) -> str:
        """Window and shift, in ``repr(model)``."""
        return f"window={self.window}, shift={self.shift}"


class _Cut:
    """One way of cutting a grid into windows."""

    def __init__(self, grid: Grid, window: tuple[int, int], shift: tuple[int, int]) -> None:
        self.grid, self.window = grid, window
        self.fill = tuple(-size % side for size, side in zip(grid, window, strict=True))
        self.padded = tuple(size + more for size, more in zip(grid, self.fill, strict=True))
        self.shift = tuple(0 if size <= w else s for size, w, s in zip(grid, window, shift, strict=True))

    def split(self, values: Values) -> Float[Tensor, "bw n2 d"]:
        """``(B, H·W, D)`` into ``(B · windows, window places, D)``."""
        x = values.unflatten(1, self.grid)
        if any(self.fill):
            x = F.pad(x, (0, 0, 0, self.fill[1], 0, self.fill[0]))
        if any(self.shift):
            x = x.roll((-self.shift[0], -self.shift[1]), dims=(1, 2))
        x = x.unflatten(2, (-1, self.window[1])).unflatten(1, (-1, self.window[0]))
        return x.transpose(2, 3).flatten(0, 2).flatten(1, 2)

    def merge(self, windows: Float[Tensor, "bw n2 d"]) -> Values:
        """The inverse of :meth:`split`."""
        down, across = (size // side for size, side in zip(self.padded, self.window, strict=True))
        x = windows.unflatten(1, self.window).unflatten(0, (-1, down, across))
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if any(self.shift):
            x = x.roll(self.shift, dims=(1, 2))
        return x[:, : self.grid[0], : self.grid[1]].flatten(1, 2)

    def places(self, outside: int, device: torch.device) -> Int[Tensor, "windows n2"]:
        """The place in the sequence of every place of every window; ``outside`` for filled-up ones."""
        numbers = torch.arange(outside, device=device, dtype=torch.float64).view(1, -1, 1)
        # Numbered from 1, so that the zeros of the filling can be told from the first place.
        return (self.split(numbers + 1)[..., 0].long() - 1) % (outside + 1)

    def mask(self, device: torch.device) -> Bool[Tensor, "windows n2 n2"] | None:
        """Which places of a window were neighbours before the grid was rolled; None when it was not."""
        if not any(self.shift):
            return None
        return _neighbours(self.padded, self.window, self.shift, device)


def _neighbours(
    padded: tuple[int, ...], window: tuple[int, int], shift: tuple[int, ...], device: torch.device
) -> Bool[Tensor, "windows n2 n2"]:
    """Rolling joins opposite borders of the grid in one window: only places from the same side may see each other."""
    sides = []
    for size, side, moved in zip(padded, window, shift, strict=True):
        place = torch.arange(size, device=device)
        sides.append((place >= size - side).long() + (place >= size - moved).long() if moved else place * 0)
    region = (3 * sides[0][:, None] + sides[1][None, :]).double().view(1, -1, 1)
    parts = _Cut(padded, window, (0, 0)).split(region)[..., 0]
    return parts[:, :, None] == parts[:, None, :]
