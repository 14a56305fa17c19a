"""What the answer "this class" rests on: attention of all layers, weighted by the gradient of the class's score.

Source: Chefer, Gur and Wolf 2021 ("Generic Attention-model Explainability", ICCV), section 3. The forward pass builds
no attention weights: their gradient follows from that of what attention gives out, ``∂s/∂A = ∂s/∂(A V) · Vᵀ``, and the
weights themselves are asked for afterwards, one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.explain.given import Given
from vitrail.models import Backbone
from vitrail.nn.tokens import Tokens

Stay = Callable[[Tensor], Tensor]
"""From weighted attention ``(B, N, N)``: how much of itself every token keeps in a layer, ``(B, N)``."""


def relevance_maps(
    model: Backbone, images: Float[Tensor, "b c *size"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, b * grid]:
    """How much each patch counts for a class: ``R ← R + Ā R`` through all layers, ``Ā`` the mean over heads of (∇A ⊙ A)⁺.

    The map is the row of ``R`` that belongs to the class token. Where the classifier reads other tokens, their rows are
    taken together, each with the share that it has in the answer (the norm of the score's gradient there): for a
    model that pools the mean of its patches, the mean over their rows. What a row has from the identity that ``R``
    starts with is left out: it says only where the row begins.

    Args:
        model: has a classifier, and attention over one grid in all layers. Its mode, its parameters' ``requires_grad``
            and ``grad`` are afterwards what they were.
        images: as the model takes them, also inside ``no_grad`` and ``inference_mode``.
        classes: whose score, one for each picture; the predicted ones when None.

    Raises:
        VitrailError: no classifier, no such class, or layers that attend within windows or not at all.
    """
    return _follow(_gradients(model, images, classes), lambda weighted: torch.ones_like(weighted[..., 0]))


def grad_rollout_maps(
    model: Backbone, images: Float[Tensor, "b c *size"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, b * grid]:
    """Rollout of attention weighted by gradients: the product of ``Ā + I`` with rows that sum to one.

    Rollout as in Abnar and Zuidema 2020, section 3, with ``Ā`` of :func:`relevance_maps` for the attention: here a
    layer that changes the score much drowns what stays, there both add up. Rows, arguments and errors are as there.
    """
    return _follow(_gradients(model, images, classes), lambda weighted: 1 / (1 + weighted.sum(dim=-1)))


@dataclass
class _Layer:
    """One layer of a forward pass: what its attention was given, and what came out before the output projection."""

    given: Given
    mixed: Tensor | None = None


@dataclass
class _Gradients:
    """The score's gradients at every layer's mix and at the tokens that the classifier reads."""

    layers: Sequence[Given]
    mixes: Sequence[Float[Tensor, "b n inner"]]
    tokens: Tokens
    at_tokens: Float[Tensor, "b n d"]


def scores_of(model: Backbone, logits: Float[Tensor, "b k"], classes: Int[Tensor, " b"] | None) -> Float[Tensor, " b"]:
    """The logit of each picture's class, or of the highest one.

    Raises:
        VitrailError: not one class for each picture, or one that the model does not have.
    """
    if classes is None:
        return logits.amax(dim=-1)
    if classes.shape != logits.shape[:1]:
        raise VitrailError(f"{len(logits)} pictures need as many classes, not {tuple(classes.shape)}")
    wrong = [int(number) for number in classes if not 0 <= number < logits.shape[-1]]
    if wrong:
        raise VitrailError(f"there is no class {wrong[0]} in a model of {logits.shape[-1]}")
    return logits.gather(1, classes.to(logits.device)[:, None])[:, 0]


def require_classifier(model: Backbone) -> None:
    """Refuse a model that says nothing about classes.

    Raises:
        VitrailError: it has no classifier.
    """
    if not model.num_classes:
        raise VitrailError(
            f"this {type(model).__name__} has no classifier, so there is no class whose evidence could be shown: train "
            "a head (vitrail probe, vitrail train), load weights that have one, or look at attention or rollout"
        )
