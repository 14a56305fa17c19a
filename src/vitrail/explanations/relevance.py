"""What the answer "this class" rests on: attention of all layers, weighted by the gradient of the class's score.

Source: Chefer, Gur and Wolf 2021 ("Generic Attention-model Explainability", ICCV), section 3. The forward pass builds
no attention weights: their gradient follows from that of what attention gives out, ``∂s/∂A = ∂s/∂(A V) · Vᵀ``, and the
weights themselves are asked for afterwards, one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.explanations.given import Given, attention_layers, evaluating, watch, with_graph
from vitrail.explanations.scores import require_classifier, scores_of
from vitrail.models import Backbone
from vitrail.nn.attention import MultiHeadAttention
from vitrail.nn.merging_block import ProportionalAttention
from vitrail.nn.tokens import Tokens

Stay = Callable[[Tensor], Tensor]
"""From weighted attention ``(B, N, N)``: the factor on every token's row of a layer, ``(B, N)``."""


def relevance_maps(
    model: Backbone, images: Float[Tensor, "b c ..."], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b ..."]:
    """How much each patch counts for a class: ``R ← R + Ā R`` through all layers.

    ``Ā`` is the mean over heads of ``(∇A ⊙ A)⁺``. The map is the class token's row of ``R``. Where the classifier reads
    other tokens, their rows are taken together, each with its share in the answer (the norm of the score's gradient
    there): for a model that pools the mean of its patches, the mean over their rows. What a row has from the identity
    that ``R`` starts with is left out: it says only where the row begins.

    Args:
        model: has a classifier, and attention over one grid in all layers. Its mode, its parameters' ``requires_grad``
            and ``grad`` are afterwards what they were.
        images: as the model takes them; also inside ``no_grad`` and ``inference_mode``.
        classes: whose score, one for each picture; the predicted ones when None.

    Returns:
        ``(B, H, W)`` on the patch grid (``(B, T, H, W)`` for clips), not negative; its scale is that of the logits.

    Raises:
        VitrailError: no classifier, no such class, or layers that attend within windows or not at all.
    """
    return _follow(_gradients(model, images, classes), torch.ones_like)


def grad_rollout_maps(
    model: Backbone, images: Float[Tensor, "b c ..."], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b ..."]:
    """Rollout of attention weighted by gradients: the product of ``Ā + I``, each with rows that sum to one.

    Rollout (Abnar and Zuidema 2020, section 3) with ``Ā`` of :func:`relevance_maps` in the place of the attention:
    what comes in by a layer takes its share from what was there, where relevance only adds. Rows, arguments and errors
    are as there.
    """
    return _follow(_gradients(model, images, classes), lambda taken: 1 / (1 + taken))


class _Layer(NamedTuple):
    """What a layer was given, and the score's gradient at its heads' answers, before the output projection."""

    given: Given
    gradient: Float[Tensor, "b n inner"]

    def weighted(self) -> Float[Tensor, "b n n"]:
        """``Ā``: the mean over heads of ``(∇A ⊙ A)⁺``, in float32."""
        mixer, tokens, context = self.given.exact()
        attention = _plain(mixer)
        with torch.no_grad(), torch.autocast(tokens.values.device.type, enabled=False):
            # A merged token's answer is that of all its patches, and so is its gradient: a patch has its part of it.
            gradient = attention.split(self.gradient.float() / tokens.sizes.unsqueeze(-1))
            slopes = gradient @ attention.values(tokens, context).float().mT
            weighted = (slopes * mixer.weights(tokens, context)).clamp(min=0).mean(dim=1)
            rows = tokens.places.unsqueeze(-1).expand(-1, -1, weighted.shape[-1])
            return weighted if tokens.merged is None else tokens.share_out(weighted.gather(1, rows))


class _Backward(NamedTuple):
    """All layers, and where on the last tokens the score depends."""

    layers: list[_Layer]
    tokens: Tokens
    gradient: Float[Tensor, "b n d"]


def _gradients(model: Backbone, images: Tensor, classes: Tensor | None) -> _Backward:
    """One pass forward and one back."""
    require_classifier(model)
    attentions = [_plain(mixer) for mixer in attention_layers(model)]
    if not attentions:
        raise VitrailError(f"a {type(model).__name__} has no attention to follow: Grad-CAM (grad_cam) works for it")
    given: dict[int, Given] = {}
    with evaluating(model), with_graph(), watch(model, given.__setitem__), _answers_of_heads(attentions) as mixes:
        # Something must need a gradient, and the parameters may be frozen.
        tokens = model.features(images.detach().clone().requires_grad_())
        score = scores_of(model.classify(tokens), classes).sum()
        *gradients, last = torch.autograd.grad(score, [*mixes.values(), tokens.values])
    layers = [_Layer(given[number], gradient) for number, gradient in zip(mixes, gradients, strict=True)]
    return _Backward(layers, tokens, last)


def _plain(mixer: nn.Module) -> MultiHeadAttention:
    """The layer itself, if it attends to the whole sequence.

    Raises:
        VitrailError: it does not.
    """
    if isinstance(mixer, ProportionalAttention):
        return mixer.attention
    if not isinstance(mixer, MultiHeadAttention):
        raise VitrailError(
            f"relevance is followed through attention to the whole picture, but this model has a "
            f"{type(mixer).__name__}: Grad-CAM (grad_cam) works for it"
        )
    return mixer


@contextmanager
def _answers_of_heads(attentions: list[MultiHeadAttention]) -> Iterator[dict[int, Tensor]]:
    """Inside the ``with`` block, what the heads of layer ``i`` answer is kept under ``i``."""
    found: dict[int, Tensor] = {}

    def keep(number: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found[number] = args[0]

    handles = [
        attention.proj.register_forward_pre_hook(partial(keep, number)) for number, attention in enumerate(attentions)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _follow(backward: _Backward, stay: Stay) -> Float[Tensor, "b ..."]:
    """Rows of the product of ``stay · (Ā + I)`` over all layers, without the part that never moved, on the patch grid.

    Rows are followed from the last layer to the first, so that no product of matrices is needed.
    """
    tokens = backward.tokens
    shares = backward.gradient.float().norm(dim=-1)
    # Apart from the start: what has moved may be so little that the sum of both would round it away.
    unmoved = shares / shares.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
    moved = torch.zeros_like(unmoved)
    for layer in reversed(backward.layers):
        weighted = layer.weighted()
        factor = stay(weighted.sum(dim=-1))
        unmoved, moved = unmoved * factor, moved * factor
        moved = moved + ((unmoved + moved).unsqueeze(1) @ weighted).squeeze(1)
    return moved[:, tokens.prefix :].unflatten(-1, tokens.grid).cpu()
