"""Tokens into the pixels that they stand for: the decoder of masked autoencoders, its targets and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.nn.encoder import Encoder
from vitrail.nn.masking import fill_dropped, mask_of
from vitrail.nn.tokens import Grid, Tokens, take_patches


class PixelDecoder(nn.Module):
    """Pixels of every patch from the tokens of the visible ones (MAE, He et al. 2022, section 3, "MAE decoder").

    Tokens are brought to the decoder's width, one learned token is put where patches were dropped, all get positions
    and pass the blocks. Attention does not care for order: that the tokens stand in the order of the grid here, while
    VideoMAE's authors put the dropped ones last, changes nothing.

    Args:
        embed: from the encoder's width to the decoder's.
        blocks: of the decoder's width.
        norm: of the decoder's width.
        pixels: numbers that a patch consists of.
    """

    def __init__(self, embed: nn.Linear, blocks: Sequence[nn.Module], norm: nn.Module, pixels: int) -> None:
        super().__init__()
        self.embed = embed
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed.out_features))
        self.blocks = Encoder(blocks)
        self.norm = norm
        self.pred = nn.Linear(embed.out_features, pixels)

    def forward(
        self, tokens: Tokens, positions: Float[Tensor, "1 m e"], places: Int[Tensor, "b w"] | None = None
    ) -> Float[Tensor, "b n p"]:
        """Predictions for every patch of the grid, seen or not.

        Args:
            tokens: the encoder's; ``keep`` says which patches there are.
            positions: of the prefix tokens and of every patch of the grid, in the decoder's width.
            places: the patches that pixels are wanted of, in this order; all when None. A loss over the masked ones
                needs no others.
        """
        whole = fill_dropped(tokens.with_values(self.embed(tokens.values)), self.mask_token)
        decoded = self.blocks(whole.with_values(whole.values + positions)).patches
        return self.pred(self.norm(decoded if places is None else take_patches(decoded, places)))


def patchify(images: Float[Tensor, "b c *sides"], patch: Sequence[int]) -> Float[Tensor, "b n p"]:
    """Pictures ``(B, C, H, W)`` or clips ``(B, C, T, H, W)`` as rows of pixels, one for each patch of the grid.

    Within a row the bands change first, then the places of the patch, row by row.

    Args:
        images: every side a multiple of the patch's.
        patch: pixels along each side.

    Raises:
        VitrailError: a side that patches do not divide.
    """
    sides = images.shape[2:]
    if len(sides) != len(patch) or any(side % step for side, step in zip(sides, patch, strict=True)):
        raise VitrailError(f"patches of {_times(patch)} do not divide {_times(sides)}")
    split = [part for side, step in zip(sides, patch, strict=True) for part in (side // step, step)]
    parts = images.reshape(*images.shape[:2], *split)
    grid, inside = range(2, parts.ndim, 2), range(3, parts.ndim, 2)
    return parts.permute(0, *grid, *inside, 1).flatten(1, len(sides)).flatten(2)


def unpatchify(patches: Float[Tensor, "b n p"], grid: Grid, patch: Sequence[int]) -> Float[Tensor, "b c *sides"]:
    """The inverse of :func:`patchify`: predictions as a picture or clip.

    Args:
        patches: a row for each patch of ``grid``.
        grid: patches along each side.
        patch: pixels along each side of a patch.
    """
    axes = len(grid)
    parts = patches.unflatten(2, (*patch, -1)).unflatten(1, grid)
    pairs = [axis for pair in zip(range(1, axes + 1), range(axes + 1, 2 * axes + 1), strict=True) for axis in pair]
    sides = [count * step for count, step in zip(grid, patch, strict=True)]
    return parts.permute(0, 2 * axes + 1, *pairs).reshape(patches.shape[0], -1, *sides)


def normalise_patches(patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b n p"]:
    """Every patch with mean 0 and variance 1 over all its pixels and bands (MAE, section 4.1, "normalized pixels")."""
    # In one pass over the pixels. MAE divides by n - 1 where layer norm divides by n: hence the share.
    count = patches.shape[-1]
    share = (count - 1) / count
    return F.layer_norm(patches, (count,), eps=1e-6 * share) * share**0.5


def normalise_bands(patches: Float[Tensor, "b n p"], bands: int) -> Float[Tensor, "b n p"]:
    """Every band of every patch with mean 0 and deviation 1 over its pixels: VideoMAE's reading of the same.

    Args:
        patches: as :func:`patchify` gives them.
        bands: of a pixel.
    """
    pixels = patches.unflatten(-1, (-1, bands))
    variance, mean = torch.var_mean(pixels, dim=-2, keepdim=True)
    return ((pixels - mean) / (variance.sqrt() + 1e-6)).flatten(-2)


def masked_error(
    predictions: Float[Tensor, "b n p"], targets: Float[Tensor, "b n p"], keep: Int[Tensor, "b k"]
) -> Float[Tensor, ""]:
    """Mean squared error over the patches that were not seen (MAE, section 3, "Reconstruction target").

    Args:
        predictions: for every patch of the grid.
        targets: for every patch of the grid.
        keep: which patches were seen.

    Raises:
        VitrailError: every patch was seen, so that there is nothing to predict.
    """
    count = predictions.shape[1]
    if keep.shape[1] >= count:
        raise VitrailError("no patch was masked: there is nothing to predict")
    error = (predictions - targets).square().mean(dim=-1)
    return error[mask_of(keep, count)].mean()


def _times(sides: Sequence[int]) -> str:
    return "×".join(map(str, sides))


def pixels_of(patch: Sequence[int], bands: int) -> int:
    """Numbers that a patch consists of."""
    return prod(patch) * bands
