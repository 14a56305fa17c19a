"""How far heads look and how evenly: the mean attention distance and the entropy of every layer and head.

Sources: attention distance is that of ViT (Dosovitskiy et al. 2021, figure 7 and appendix D.7): the distance on the
picture between a query patch and the patches it takes from, weighted by attention, averaged over query patches. Tokens
that are no patches stand nowhere on the picture: as queries and as keys they are left out of the distance, and what
remains of a row is brought to sum to one. The entropy counts all keys.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.explanations.given import Given, evaluating, watch
from vitrail.explanations.record import LayerAttention, rows_of
from vitrail.nn.tokens import Grid

NUMBERS_AT_ONCE = 2**23
"""Attention weights that are held at once for 16 heads, 32 MiB: longer sequences are taken in chunks of rows."""


class LayerReach(NamedTuple):
    """How the heads of one layer look around, for every picture.

    Attributes:
        layer: its number.
        distance: mean attention distance in pixels, ``(B, heads)``.
        entropy: mean entropy of a row in nats, ``(B, heads)``: 0 for a single token, log N for all N alike.
    """

    layer: int
    distance: Float[Tensor, "b heads"]
    entropy: Float[Tensor, "b heads"]


def attention_distance(attention: LayerAttention, size: tuple[int, int]) -> Float[Tensor, "b heads"]:
    """Mean attention distance in pixels over the recorded patch rows; prefix tokens are left out (see above).

    For clips it is the distance within the frame: time is left out.

    Args:
        attention: rows of a layer whose queries and keys are the same tokens.
        size: height and width in pixels of the picture that the model was given.

    Raises:
        VitrailError: patches were dropped, or no recorded row belongs to a patch.
    """
    places, weights = _patch_rows(attention)
    centres = _centres(attention.grid, size)
    # The quicker way by matrix products would put a patch some hundredths of a pixel from itself.
    between = torch.cdist(centres[places], centres, compute_mode="donot_use_mm_for_euclid_dist")
    shares = weights[..., attention.prefix :]
    # A head that gives the patches nothing has no distance: 0 over the smallest number is 0.
    total = shares.sum(dim=-1).clamp(min=torch.finfo(shares.dtype).tiny)
    return (torch.einsum("bhqk,qk->bhq", shares, between) / total).mean(dim=-1)


def attention_entropy(attention: LayerAttention) -> Float[Tensor, "b heads"]:
    """Mean entropy in nats over the recorded patch rows, prefix tokens among the keys counted.

    Raises:
        VitrailError: as :func:`attention_distance`.
    """
    _, weights = _patch_rows(attention)
    # Windows leave out what filled-up places took: rows of sum s are brought to one by
    # -Σ w/s log w/s = log s - Σ w log w / s.
    total = weights.sum(dim=-1).clamp(min=torch.finfo(weights.dtype).tiny)
    return (torch.special.entr(weights).sum(dim=-1) / total + total.log()).mean(dim=-1)


def reach_of(given: Given, layer: int, size: tuple[int, int]) -> LayerReach | None:
    """Distance and entropy of a layer from what it was given; None where queries or keys are no places of a picture.

    Never holds more than :data:`NUMBERS_AT_ONCE` weights for 16 heads.

    Args:
        given: the layer's input.
        layer: its number.
        size: height and width in pixels of the picture.
    """
    tokens = given.tokens
    seen = given.mixer.seen(tokens, given.context)
    count = prod(tokens.grid)
    on_picture = len(tokens.grid) >= 2 and tokens.grid == seen.grid and tokens.prefix == seen.prefix
    if not on_picture or tokens.values.shape[1] != seen.values.shape[1] or tokens.values.shape[1] <= tokens.prefix:
        return None
    batch, length = tokens.values.shape[:2]
    step = max(1, NUMBERS_AT_ONCE // (16 * batch * length))
    distance, entropy = [], []
    for start in range(0, count, step):
        stop = min(start + step, count)
        rows = rows_of(given, range(tokens.prefix + start, tokens.prefix + stop))
        distance.append(attention_distance(rows, size) * (stop - start))
        entropy.append(attention_entropy(rows) * (stop - start))
    return LayerReach(layer, torch.stack(distance).sum(dim=0) / count, torch.stack(entropy).sum(dim=0) / count)


def measure_reach(model: nn.Module, images: Float[Tensor, "b c *size height width"]) -> list[LayerReach]:
    """Attention distance and entropy of every layer in which patches look at patches, from one forward pass.

    No more than one layer's weights are held at a time. The model is left in the mode it was in.

    Args:
        model: called with the pictures alone.
        images: as the model takes them.

    Raises:
        VitrailError: a model without such layers, or with dropped patches.
    """
    found: list[LayerReach] = []
    size = (images.shape[-2], images.shape[-1])

    def see(layer: int, given: Given) -> None:
        reach = reach_of(given, layer, size)
        if reach is not None:
            found.append(reach)

    with watch(model, see), evaluating(model), torch.no_grad():
        model(images)
    if not found:
        raise VitrailError(f"{type(model).__name__} has no layer in which patches look at patches")
    return sorted(found)


def diagonal(size: tuple[int, int]) -> float:
    """The longest distance on a picture of ``(height, width)``, in pixels."""
    return float(torch.tensor(size, dtype=torch.float64).square().sum().sqrt())


def _patch_rows(attention: LayerAttention) -> tuple[Tensor, Float[Tensor, "b heads q n"]]:
    """The patches that the recorded rows belong to, by number, and these rows."""
    if attention.keep is not None:
        raise VitrailError("distances need every patch: these tokens keep only a part of their grid")
    chosen = attention.queries >= attention.prefix
    if not bool(chosen.any()):
        raise VitrailError("no row of a patch was recorded: ask for them with record(…, queries=None)")
    weights = attention.weights if bool(chosen.all()) else attention.weights[:, :, chosen]
    return attention.queries[chosen] - attention.prefix, weights


def _centres(grid: Grid, size: tuple[int, int]) -> Float[Tensor, "n 2"]:
    """Row and column in pixels of the middle of every patch."""
    axes = [torch.arange(count) for count in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)[:, -2:]
    return (places + 0.5) * torch.tensor([size[0] / grid[-2], size[1] / grid[-1]])
