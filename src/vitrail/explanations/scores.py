"""The score that a gradient is taken of: a class's logit."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.models import Backbone


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


def scores_of(logits: Float[Tensor, "b k"], classes: Int[Tensor, " c"] | None) -> Float[Tensor, " b"]:
    """The logit of each picture's class, or of the highest one.

    Raises:
        VitrailError: not one class for each picture, or one that the model does not have.
    """
    if classes is None:
        return logits.amax(dim=-1)
    if len(classes) != len(logits):
        raise VitrailError(f"{len(logits)} pictures need as many classes, not {len(classes)}")
    wrong = [number for number in classes.tolist() if not 0 <= number < logits.shape[-1]]
    if wrong:
        raise VitrailError(f"there is no class {wrong[0]} in a model of {logits.shape[-1]}: they count from 0")
    # A copy: classes made in inference mode could not be part of a graph.
    return logits.gather(1, classes.clone().to(logits.device)[:, None])[:, 0]
