"""From recorded attention to one map per picture: a token's view, heads put together, rollout, picture size."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.explanations.given import evaluating
from vitrail.explanations.record import AttentionRecord, Query, mean_of_heads, record

Upsample = Callable[[Tensor, tuple[int, int]], Tensor]
"""Brings maps ``(B, H, W)`` on the patch grid to picture size ``(height, width)``."""


def query_maps(attention: AttentionRecord, layer: int = -1, query: Query = 0) -> Float[Tensor, "b heads h w"]:
    """What one token looked at, per head: the first (the class token, if any) or a clicked patch ``(row, column)``.

    Raises:
        VitrailError: if the layer or the query was not recorded.
    """
    recorded = attention[layer]
    return recorded.maps()[:, :, recorded.row(query)]


def class_maps(attention: AttentionRecord, layer: int = -1) -> Float[Tensor, "b heads h w"]:
    """What the class token looked at, per head.

    Raises:
        VitrailError: if the model has no class token.
    """
    if not attention[layer].class_token:
        raise VitrailError("this model has no class token: use patch_mean_maps() or the map of one patch")
    return query_maps(attention, layer, 0)


def patch_mean_maps(attention: AttentionRecord, layer: int = -1) -> Float[Tensor, "b heads h w"]:
    """How much each patch is looked at by all patches together: the mean over their rows.

    The counterpart of :func:`class_maps` for models that pool by mean. Needs ``record(…, queries=None)``.
    """
    recorded = attention[layer]
    rows = recorded.queries >= recorded.prefix
    if int(rows.sum()) != recorded.weights.shape[-1] - recorded.prefix:
        raise VitrailError("the mean over all patches needs all of their rows: record(…, queries=None)")
    return recorded.maps()[:, :, rows].mean(dim=2)


def head_mean(maps: Float[Tensor, "b heads h w"]) -> Float[Tensor, "b h w"]:
    """Mean over the heads."""
    return maps.mean(dim=1)


def attention_maps(
    model: nn.Module, images: Float[Tensor, "b c height width"], layer: int = -1
) -> Float[Tensor, "b h w"]:
    """One map per picture, mean over heads: what the pooled answer looked at in one layer.

    The class token's view, or the mean over all patches for a model that has none. Runs the model once, in evaluation
    mode and without gradients, and leaves it in the mode it was in.
    """
    with evaluating(model), torch.no_grad():
        with record(model, layers=(layer,)) as attention:
            model(images)
        if attention[layer].class_token:
            return head_mean(class_maps(attention, layer))
        with record(model, layers=(layer,), queries=None, fuse=mean_of_heads) as attention:
            model(images)
        return head_mean(patch_mean_maps(attention, layer))


def rollout(attention: AttentionRecord, discard: float = 0.0) -> Float[Tensor, "b n n"]:
    """Attention followed through all layers: the product of ``(A + I) / 2`` from the first layer to the last.

    Heads are averaged, half the weight is the residual connection's, rows are normalised (Abnar and Zuidema 2020,
    section 3).

    Args:
        attention: all layers with all rows: ``record(model, queries=None, fuse=mean_of_heads)``.
        discard: share of each row's smallest weights that is set to zero first, 0 ≤ discard < 1. Not in the paper;
            it clears the haze that many layers of small weights add up to.

    Raises:
        VitrailError: if layers or rows are missing, layers have different grids, or ``discard`` is out of range.
    """
    if not 0.0 <= discard < 1.0:
        raise VitrailError(f"discard must be at least 0 and below 1, not {discard}")
    if attention.layers != tuple(range(attention.depth)):
        raise VitrailError(f"rollout needs all {attention.depth} layers; recorded are {attention.layers}")
    product: Tensor | None = None
    for layer in attention.layers:
        weights = attention[layer].weights.mean(dim=1)
        if weights.shape[-1] != weights.shape[-2]:
            raise VitrailError("rollout needs the rows of all tokens: record(…, queries=None)")
        weights = _without_smallest(weights, int(discard * weights.shape[-1]))
        step = weights / weights.sum(dim=-1, keepdim=True)
        step = 0.5 * step + 0.5 * torch.eye(step.shape[-1])
        if product is not None and product.shape != step.shape:
            raise VitrailError(
                f"rollout needs one grid in all layers, but layer {layer} has {step.shape[-1]} tokens and the one "
                f"before it {product.shape[-1]}: look at single layers of such a model"
            )
        product = step if product is None else step @ product
    if product is None:
        raise VitrailError("nothing was recorded: run the model inside the with block")
    return product


def _without_smallest(weights: Float[Tensor, "b n n"], count: int) -> Float[Tensor, "b n n"]:
    smallest = weights.topk(count, dim=-1, largest=False).indices
    return weights.scatter(-1, smallest, 0.0)


def rollout_maps(attention: AttentionRecord, discard: float = 0.0) -> Float[Tensor, "b ..."]:
    """The class token's row of :func:`rollout` on the patch grid; without a class token the mean of the patches' rows.

    The prefix tokens' share is left out, so that a map sums to less than one. ``(B, H, W)``, of clips ``(B, T, H, W)``.
    """
    last = attention[-1]
    if last.keep is not None:
        raise VitrailError("a rollout map needs every patch: these tokens keep only a part of their grid")
    flow = rollout(attention, discard)
    rows = flow[:, 0] if last.class_token else flow[:, last.prefix :].mean(dim=1)
    return rows[:, last.prefix :].unflatten(-1, last.grid)


def upsample_nearest(maps: Float[Tensor, "b h w"], size: tuple[int, int]) -> Float[Tensor, "b height width"]:
    """Every pixel takes the value of its patch: exact patches."""
    return F.interpolate(maps[:, None], size, mode="nearest-exact")[:, 0]


def upsample_bilinear(maps: Float[Tensor, "b h w"], size: tuple[int, int]) -> Float[Tensor, "b height width"]:
    """Values stand at patch centres and are interpolated linearly between them: a smooth look."""
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
