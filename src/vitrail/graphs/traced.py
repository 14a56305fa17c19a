"""From a model to a traced program: pictures in, named answers out, any number of pictures at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported, UserError
from torch.export import Dim, ExportedProgram

from vitrail.contracts import VitrailError
from vitrail.graphs.facts import Output
from vitrail.heads.pool import POOLS, PoolName
from vitrail.models import Backbone, DualEncoder, MaskedAutoencoder, Model
from vitrail.nn.attention import attention_kernel
from vitrail.nn.tokens import Tokens

Encoder = Backbone | DualEncoder

POOLED: tuple[tuple[Output, PoolName], ...] = (("class_token", "class"), ("patch_mean", "mean"))
"""Outputs that are pooled from the last tokens."""


def traceable(model: Model) -> Encoder:
    """The part of a model that a graph can be made of: a picture encoder with its classifier, or CLIP's picture side.

    Raises:
        VitrailError: it is a model of another kind.
    """
    if isinstance(model, MaskedAutoencoder):
        return model.encoder
    if isinstance(model, Backbone | DualEncoder):
        return model
    raise VitrailError(
        f"a {type(model).__name__} does not become a graph: classifiers, picture encoders and the picture side of "
        "image-text models do; detectors, segmenters and generators run with --backend torch"
    )


def outputs_of(model: Encoder) -> tuple[Output, ...]:
    """All that a graph of this model can give."""
    if isinstance(model, DualEncoder):
        return ("embedding",)
    with torch.inference_mode():
        class_token = model.features(*model.example_inputs(1)).class_token
    named: list[tuple[Output, bool]] = [
        ("logits", model.num_classes > 0),
        ("class_token", class_token),
        ("patch_mean", True),
    ]
    return tuple(name for name, there in named if there)


def usual_outputs(model: Encoder) -> tuple[Output, ...]:
    """What a graph gives when nobody asks for anything else: a classifier its logits, others all that they can."""
    there = outputs_of(model)
    return ("logits",) if "logits" in there else there


class Traceable(nn.Module):
    """A model whose answers are a plain tuple.

    Args:
        model: in evaluation mode.
        outputs: which answers, in this order.

    Raises:
        VitrailError: one that the model does not give.
    """

    def __init__(self, model: Encoder, outputs: Sequence[Output]) -> None:
        super().__init__()
        there = outputs_of(model)
        absent = [name for name in outputs if name not in there]
        if absent or not outputs:
            raise VitrailError(
                f"this {type(model).__name__} does not give {', '.join(absent) or 'nothing'}: choose from "
                + ", ".join(there)
            )
        self.model = model
        self.outputs = tuple(outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``(B, C, H, W)`` normalised pictures to one ``(B, …)`` tensor for each output."""
        if isinstance(self.model, DualEncoder):
            return (self.model.embed_images(images),)
        tokens = self._tokens(self.model, images)
        found: dict[Output, Tensor] = {"logits": self.model.classify(tokens)} if "logits" in self.outputs else {}
        found |= {name: POOLS[pool](0, 0, 0.0)(tokens) for name, pool in POOLED if name in self.outputs}
        return tuple(found[name] for name in self.outputs)

    def _tokens(self, model: Backbone, images: Tensor) -> Tokens:
        """Those that the outputs are made of: all of them cost more than the first alone."""
        if self.outputs == ("logits",):
            return model.read(images)
        return model.leading(images, 1) if self.outputs == ("class_token",) else model.features(images)


def pictures_for(model: Encoder, count: int) -> Tensor:
    """Noise of the shape that the model reads."""
    return model.example_inputs(count)[0]


def trace(model: Traceable) -> ExportedProgram:
    """The program of one forward pass, for any number of pictures of the model's own size.

    Raises:
        VitrailError: the pass depends on values that are only known when it runs.
    """
    images = pictures_for(model.model, 2)
    try:
        # Plain products: what other libraries know how to fuse, and the one form that every mask goes with.
        with torch.no_grad(), attention_kernel("plain"):
            return torch.export.export(model, (images,), dynamic_shapes=({0: Dim("batch", min=1)},))
    except (UserError, Unsupported, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise VitrailError(f"this {type(model.model).__name__} cannot be traced into a graph: {first}") from error
