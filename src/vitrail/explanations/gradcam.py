"""Grad-CAM: the features of one layer, each weighted by how much a class's score grows with it.

Source: Selvaraju et al. 2017 ("Grad-CAM", ICCV), section 3. Made for convolutional networks; for a transformer the
features are those that an attention layer is given. At the last layer, what the class token reads is all that the
patches still do for its answer, so that features behind that layer would have no gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.explanations.given import Given, evaluating, watch, with_graph
from vitrail.explanations.scores import require_classifier, scores_of
from vitrail.models import Backbone
from vitrail.models.conv import ConvNet
from vitrail.nn.tokens import Tokens


def grad_cam(
    model: Backbone, images: Float[Tensor, "b c ..."], classes: Int[Tensor, " b"] | None = None, depth: int = -1
) -> Float[Tensor, "b ..."]:
    """Where the features are that speak for a class: ``(Σ_d α_d F_d)⁺``, ``α`` the mean of ``∂score/∂F`` over places.

    Args:
        model: has a classifier. Its mode, its parameters' ``requires_grad`` and ``grad`` are afterwards what they were.
        images: as the model takes them; also inside ``no_grad`` and ``inference_mode``.
        classes: whose score, one for each picture; the predicted ones when None.
        depth: of a transformer, the attention layer whose input (behind the block's norm) the features are; of a
            convolutional network, the stage whose map they are. Negative numbers count from the end.

    Returns:
        ``(B, H, W)`` on the grid of that depth (``(B, T, H, W)`` for clips), not negative. The tokens that are no
        patches have no part in it.

    Raises:
        VitrailError: no classifier, no such class, or no such depth.
    """
    require_classifier(model)
    with evaluating(model), with_graph():
        # Something must need a gradient, and the parameters may be frozen.
        pictures = images.detach().clone().requires_grad_()
        if isinstance(model, ConvNet):
            logits, features = _of_stage(model, pictures, depth)
            (gradient,) = torch.autograd.grad(scores_of(logits, classes).sum(), [features])
            return _weighted(features, gradient)
        logits, tokens = _of_layer(model, pictures, depth)
        (gradient,) = torch.autograd.grad(scores_of(logits, classes).sum(), [tokens.values])
        # Of a merged token's gradient each of its patches has an equal part.
        slopes = tokens.with_values(gradient / tokens.sizes.unsqueeze(-1)).unmerged()
        return _weighted(tokens.unmerged().feature_map(), slopes.feature_map())


def _of_layer(model: Backbone, images: Tensor, layer: int) -> tuple[Float[Tensor, "b k"], Tokens]:
    """Logits, and the tokens that an attention layer was given on the way to them."""
    seen: dict[int, Given] = {}
    with watch(model, seen.__setitem__, (layer,)):
        logits = model(images)
    (given,) = seen.values()
    return logits, given.tokens


def _of_stage(model: ConvNet, images: Tensor, stage: int) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b d h w"]]:
    """Logits, and the map of a stage on the way to them."""
    if not -model.taps <= stage < model.taps:
        raise VitrailError(f"there is no stage {stage} in a model of {model.taps} stages")
    maps: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], found: list[Tensor]) -> None:
        maps.extend(found)

    handle = model.stages.register_forward_hook(keep)
    try:
        logits = model(images)
    finally:
        handle.remove()
    return logits, maps[stage]


@torch.no_grad()
def _weighted(features: Float[Tensor, "b d *grid"], gradient: Float[Tensor, "b d *grid"]) -> Float[Tensor, "b ..."]:
    """``(Σ_d α_d F_d)⁺``."""
    with torch.autocast(features.device.type, enabled=False):
        alpha = gradient.float().flatten(2).mean(dim=-1)
        return torch.einsum("bd,bd...->b...", alpha, features.float()).clamp(min=0).cpu()
