"""Which part of a pretrained model learns: all of it, the last blocks, the head, or low-rank updates."""

from __future__ import annotations

from collections.abc import Callable

from vitrail.contracts import VitrailError
from vitrail.models.backbone import Backbone
from vitrail.nn.lora import add_lora

Tune = Callable[[Backbone], None]
"""Freezes what is not to learn, in place."""


def tune_full(model: Backbone) -> None:
    """Everything learns, except what was never learned (fixed positions)."""


def tune_last(blocks: int) -> Tune:
    """The last ``blocks`` blocks, the final norm and the head; 0 for the norm and the head."""

    def freeze(model: Backbone) -> None:
        roles = model.roles()
        deepest = max(role.depth for role in roles.values())
        if not 0 <= blocks < deepest:
            raise VitrailError(f"cannot tune the last {blocks} blocks of a model that has {deepest - 1}")
        for name, parameter in model.named_parameters():
            if roles[name].depth < deepest - blocks:
                parameter.requires_grad_(False)
        model.train(model.training)  # Norms that were just frozen rest from now on.

    return freeze


def tune_head(model: Backbone) -> None:
    """The classifier alone: the features stay what they were."""
    for name, parameter in model.named_parameters():
        if not name.startswith("head"):
            parameter.requires_grad_(False)
    model.train(model.training)


def tune_lora(rank: int, alpha: float) -> Tune:
    """Low-rank updates of every linear layer in the blocks, and the classifier; as wide as the narrowest at most."""

    def adapt(model: Backbone) -> None:
        tune_head(model)
        try:
            adapted = add_lora(model, lambda name: "blocks" in name.split("."), rank, alpha)
        except ValueError as error:
            raise VitrailError(f"low-rank updates of a {type(model).__name__}: {error}") from error
        if not adapted:
            raise VitrailError(
                f"a {type(model).__name__} has no linear layers in blocks that low-rank updates could stand beside: "
                "tune all of it, the last blocks or the head"
            )

    return adapt
