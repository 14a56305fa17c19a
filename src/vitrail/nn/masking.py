"""Which patches a model gets to see: drawing them at random, and putting something in the place of the others."""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.nn.tokens import Grid, Tokens

ROUNDING = 1e-6
"""Keeps a share such as 0.9 of 10, which is a little less than 9 in floating point, from losing a whole patch."""


def random_keep(batch: int, grid: Grid, ratio: float, generator: torch.Generator | None = None) -> Int[Tensor, "b k"]:
    """Patches drawn for every sample by itself, all equally likely (MAE, He et al. 2022, section 3).

    Args:
        batch: how many samples.
        grid: the patch grid.
        ratio: share of the patches that are dropped; ``int(N · (1 - ratio))`` are kept, at least one.
        generator: makes the choice repeatable, and says on which device it is drawn; None for PyTorch's own.

    Returns:
        The places of the kept patches in ascending order.
    """
    _require_share(ratio)
    count = prod(grid)
    return _draw(batch, count, int(count * (1.0 - ratio) + ROUNDING), generator)


def tube_keep(batch: int, grid: Grid, ratio: float, generator: torch.Generator | None = None) -> Int[Tensor, "b k"]:
    """The same places in every frame, so that motion gives nothing away (VideoMAE, Tong et al. 2022, section 3.3).

    Args:
        batch: how many clips.
        grid: ``(T, H, W)``.
        ratio: share that is dropped; ``int(H · W · ratio)`` of every frame are, all but one at most.
        generator: as in :func:`random_keep`.

    Returns:
        The places of the kept patches in ascending order.
    """
    _require_share(ratio)
    frames, *plane = grid
    count = prod(plane)
    places = _draw(batch, count, count - int(count * ratio + ROUNDING), generator)
    starts = torch.arange(frames, device=places.device) * count
    return (starts[:, None] + places[:, None, :]).flatten(1)


def _require_share(ratio: float) -> None:
    if not 0.0 <= ratio < 1.0:
        raise VitrailError(f"the share of patches that are masked must be at least 0 and below 1, not {ratio}")


def _draw(batch: int, count: int, kept: int, generator: torch.Generator | None) -> Int[Tensor, "b k"]:
    device = generator.device if generator is not None else None
    noise = torch.rand(batch, count, generator=generator, device=device)
    return noise.argsort(dim=1)[:, : max(1, kept)].sort(dim=1).values


def mask_of(keep: Int[Tensor, "b k"], count: int) -> Bool[Tensor, "b {count}"]:
    """True at the places out of ``count`` that are not kept."""
    mask = torch.ones(keep.shape[0], count, dtype=torch.bool, device=keep.device)
    return mask.scatter(1, keep, False)


def dropped_of(keep: Int[Tensor, "b k"], count: int) -> Int[Tensor, "b m"]:
    """The places out of ``count`` that are not kept, in ascending order; the device is not waited for."""
    return mask_of(keep, count).byte().argsort(dim=1, descending=True, stable=True)[:, : count - keep.shape[1]]


def keep_of(mask: Bool[Tensor, "b n"]) -> Int[Tensor, "b k"]:
    """The places, in ascending order, where a mask is False.

    Raises:
        VitrailError: samples that do not all keep equally many: they make no batch.
    """
    kept = (~mask).sum(dim=1)
    if not bool((kept == kept[0]).all()):
        raise VitrailError(f"every sample of a batch must keep equally many patches, not {sorted({*kept.tolist()})}")
    return (~mask).nonzero()[:, 1].view(mask.shape[0], -1)


def fill_dropped(tokens: Tokens, filler: Float[Tensor, "1 1 d"]) -> Tokens:
    """The whole grid again, with ``filler`` where patches were dropped."""
    if tokens.keep is None:
        return tokens
    batch, width = tokens.values.shape[0], tokens.values.shape[-1]
    places = tokens.keep.unsqueeze(-1).expand(-1, -1, width)
    patches = tokens.patches
    whole = filler.to(patches.dtype).expand(batch, prod(tokens.grid), width).scatter(1, places, patches)
    return tokens._replace(values=torch.cat([tokens.prefix_values, whole], dim=1), keep=None)
