"""Fewer tokens of the same width: pairs of patches that are alike become one token each.

Source: token merging (Bolya et al. 2023, "Token Merging: Your ViT But Faster", section 3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.nn.tokens import Tokens, take_patches


class Matching(NamedTuple):
    """Which patch tokens are given up, and which take them in; several may go to one.

    Attributes:
        sources: ``(B, R)``, places among the patch tokens, all even.
        targets: ``(B, R)``, for each of them a place, all odd.
    """

    sources: Int[Tensor, "b r"]
    targets: Int[Tensor, "b r"]


def match_patches(traits: Float[Tensor, "b k c"], count: int) -> Matching:
    """The tokens at even places that are most like one at an odd place, by cosine (bipartite soft matching).

    Of equal ones the first are taken. The work is one product of half the tokens with the other half.

    Args:
        traits: what tokens are compared by.
        count: how many are given up in every picture, at most ``K // 2``.
    """
    traits = F.normalize(traits, dim=-1)
    alike, partner = (traits[:, 0::2] @ traits[:, 1::2].mT).max(dim=-1)
    chosen = alike.argsort(dim=-1, descending=True, stable=True)[:, :count]
    return Matching(2 * chosen, 2 * partner.gather(1, chosen) + 1)


def merge_patches(tokens: Tokens, matching: Matching) -> Tokens:
    """Each target becomes the mean of all patches in it and its sources; the other tokens stay, in their order.

    A merged token stands at its target's place of the grid. Equal tokens merge to themselves exactly.

    Args:
        tokens: with every patch of their grid, merged before or not.
        matching: of its patch tokens.
    """
    sources, targets = (places + tokens.prefix for places in matching)
    batch, length = tokens.values.shape[:2]
    stays = torch.ones(batch, length, dtype=torch.bool, device=sources.device).scatter(1, sources, False)
    survivors = stays.byte().argsort(dim=1, descending=True, stable=True)[:, : length - sources.shape[1]]
    new = stays.cumsum(dim=1) - 1
    new = new.scatter(1, sources, new.gather(1, targets))
    seats = survivors[:, tokens.prefix :] - tokens.prefix
    return tokens._replace(
        values=_means(tokens, sources, targets, survivors, new),
        keep=seats if tokens.keep is None else tokens.keep.gather(1, seats),
        merged=new.gather(1, tokens.places)[:, tokens.prefix :] - tokens.prefix,
    )


def _means(
    tokens: Tokens,
    sources: Int[Tensor, "b r"],
    targets: Int[Tensor, "b r"],
    survivors: Int[Tensor, "b n2"],
    new: Int[Tensor, "b n"],
) -> Float[Tensor, "b n2 d"]:
    """The survivors' values, those of targets moved towards their sources' by the sources' share of all patches.

    Only the rows that change are worked on, and what is summed is small: half precision is enough.
    """
    sizes = tokens.sizes
    weights = sizes.gather(1, sources)
    shares = weights / sizes.scatter_add(1, targets, weights).gather(1, targets)
    apart = take_patches(tokens.values, sources) - take_patches(tokens.values, targets)
    moves = apart * shares.unsqueeze(-1).to(apart.dtype)
    places = new.gather(1, sources).unsqueeze(-1).expand_as(moves)
    return take_patches(tokens.values, survivors).scatter_add(1, places, moves)
